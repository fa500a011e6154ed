//! The limits of the machine: what one sync of the disk and one call over loopback cost with nothing around them.

use std::{
    fs::File,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use aqueduct_client::proto::{self, admin_client::AdminClient, admin_server};
use hdrhistogram::Histogram;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server};

use crate::report::Report;

pub(crate) const FDATASYNC: &str = "limit: fdatasync of 4 KiB, p50";
pub(crate) const GRPC: &str = "limit: bare gRPC call, p50";

const SYNCS: usize = 500;
const CALLS: usize = 2000;

pub(crate) async fn measure(report: &mut Report) -> anyhow::Result<()> {
    report.duration(FDATASYNC, fdatasync()?);
    report.duration(GRPC, grpc_call().await?);
    Ok(())
}

/// A growing file, as the log's: 4 KiB written, then synced.
fn fdatasync() -> anyhow::Result<Duration> {
    let directory = tempfile::tempdir()?;
    let mut file = File::create(directory.path().join("sync"))?;
    let mut times = Histogram::<u64>::new(3)?;
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.record(u64::try_from(start.elapsed().as_micros())?)?;
    }
    Ok(Duration::from_micros(times.value_at_quantile(0.5)))
}

struct Nothing;

#[tonic::async_trait]
impl admin_server::Admin for Nothing {
    async fn info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::InfoResponse>, Status> {
        Ok(Response::new(proto::InfoResponse::default()))
    }
}

/// A server that does nothing, on a thread of its own.
async fn grpc_call() -> anyhow::Result<Duration> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    thread::spawn(move || -> anyhow::Result<()> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let incoming = futures_util::stream::unfold(TcpListener::from_std(listener)?, |listener| async {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                if let Ok(stream) = &accepted {
                    let _ = stream.set_nodelay(true);
                }
                Some((accepted, listener))
            });
            let service = admin_server::AdminServer::new(Nothing);
            Ok(Server::builder().add_service(service).serve_with_incoming(incoming).await?)
        })
    });
    let channel = tonic::transport::Endpoint::new(format!("http://{address}"))?.connect().await?;
    let mut client = AdminClient::new(channel);
    let mut times = Histogram::<u64>::new(3)?;
    for _ in 0..CALLS {
        let start = Instant::now();
        client.info(proto::InfoRequest::default()).await?;
        times.record(u64::try_from(start.elapsed().as_micros())?)?;
    }
    Ok(Duration::from_micros(times.value_at_quantile(0.5)))
}
