//! Private code that reads what strangers send, made reachable for the fuzz targets in `tests/fuzz`.
//!
//! Behind the feature `fuzzing`, which nothing else enables: not part of the API.
#![allow(missing_docs, reason = "not part of the API")]

use std::convert::Infallible;

use aqueduct_storage::Batch;
use http::{Request, Response};
use tonic::body::Body;
use tower_service::Service;

use crate::{Broker, Limits, batch_check, in_process::InProcess};

/// `batch` as it came, if it may be stored, or what is wrong with it.
///
/// # Errors
/// What a publisher is told.
pub fn check_batch(batch: Batch, limits: &Limits) -> Result<Batch, String> {
    batch_check::check(batch, limits).map_err(|error| error.to_string())
}

/// Every method of the API, called with bytes.
pub fn service(
    broker: &Broker,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + use<> {
    InProcess::new(&broker.core)
}
