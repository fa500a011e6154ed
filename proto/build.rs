//! Generates the API from its `.proto` files with a compiler written in Rust: nobody needs `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 5] = [
    "aqueduct/v1/types.proto",
    "aqueduct/v1/log.proto",
    "aqueduct/v1/topics.proto",
    "aqueduct/v1/groups.proto",
    "aqueduct/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=aqueduct");
    println!("cargo:rerun-if-changed=google");
    let descriptors = protox::compile(FILES, ["."])?;

    // `compile_fds` ignores `file_descriptor_set_path`; without this file reflection has nothing to show.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("aqueduct.v1.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".aqueduct.v1")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(descriptors)?;
    Ok(())
}
