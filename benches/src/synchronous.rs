//! One publish at a time: the latency that a caller waits for.

use std::time::{Duration, Instant};

use aqueduct_client::Record;
use aqueduct_tests::BrokerProcess;
use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::{limits, report::Report};

pub(crate) async fn measure(report: &mut Report, load: Duration, record_bytes: usize) -> anyhow::Result<()> {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("synchronous").build().await?;
    let producer = client.producer("synchronous").build().await?;
    let value: Bytes = (0..record_bytes).map(|_| fastrand::u8(..)).collect::<Vec<u8>>().into();
    let mut times = Histogram::<u64>::new(3)?;
    let start = Instant::now();
    while start.elapsed() < load {
        let publish = Instant::now();
        producer.publish(Record::new(value.clone())).await?;
        times.record(u64::try_from(publish.elapsed().as_micros())?)?;
    }
    let p50 = Duration::from_micros(times.value_at_quantile(0.5));
    report.duration("synchronous publish, p50", p50);
    report.duration("synchronous publish, p99", Duration::from_micros(times.value_at_quantile(0.99)));
    if let (Some(sync), Some(call)) = (report.known(limits::FDATASYNC), report.known(limits::GRPC)) {
        let ratio = p50.as_secs_f64() * 1e6 / (sync + call);
        report.figure("synchronous publish / (fdatasync + gRPC call)", ratio, "times");
    }
    Ok(())
}
