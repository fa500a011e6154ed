//! Clients that know nothing of Aqueduct but its `.proto` files, or not even those.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use aqueduct_tests::BrokerProcess;

fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// A virtual environment with the packages of `python/requirements.txt`, made once beside the other build products.
fn python_environment() -> &'static Path {
    static ENVIRONMENT: OnceLock<PathBuf> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let environment = aqueduct_tests::aqueduct_binary().with_file_name("strangers");
        let installed = environment.join("installed");
        let requirements = manifest().join("python/requirements.txt");
        let wanted = std::fs::read(&requirements).expect("the requirements");
        if std::fs::read(&installed).ok().as_ref() != Some(&wanted) {
            run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
            run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "-r"]).arg(requirements));
            std::fs::write(installed, wanted).expect("the environment is writable");
        }
        environment
    })
}

#[test]
fn a_python_client_with_generated_stubs_publishes_fetches_and_reflects() {
    let broker = BrokerProcess::start();
    let said = run(Command::new(python_environment().join("bin/python"))
        .arg(manifest().join("python/stranger.py"))
        .arg(format!("127.0.0.1:{}", broker.port()))
        .arg(manifest().join("../proto")));
    assert!(said.contains("stranger: done"), "{said}");
}

#[test]
fn grpcurl_needs_no_proto_files_and_sees_the_health() {
    let broker = BrokerProcess::start();
    let address = format!("127.0.0.1:{}", broker.port());
    let grpcurl = |arguments: &[&str]| {
        let (data, call) = arguments.split_at(arguments.len() - 1);
        run(Command::new(python_environment().join("bin/grpcurl"))
            .arg("-plaintext")
            .args(data)
            .arg(&address)
            .args(call))
    };
    let services = grpcurl(&["list"]);
    for service in ["aqueduct.v1.Log", "aqueduct.v1.Groups", "grpc.health.v1.Health"] {
        assert!(services.contains(service), "{services}");
    }
    assert!(grpcurl(&["grpc.health.v1.Health/Check"]).contains("SERVING"));
    grpcurl(&["-d", r#"{"name": "flights", "config": {"partitions": 1}}"#, "aqueduct.v1.Topics/Create"]);
    let published = grpcurl(&[
        "-d",
        r#"{"topic": "flights", "records": {"records": [{"key": "bjE=", "value": "aGk="}]}}"#,
        "aqueduct.v1.Log/Publish",
    ]);
    assert!(published.contains("DURABILITY_FSYNC"), "{published}");
    let fetched = grpcurl(&["-d", r#"{"topic": "flights", "decode": true}"#, "aqueduct.v1.Log/Fetch"]);
    assert!(fetched.contains(r#""value": "aGk=""#), "{fetched}");
}
