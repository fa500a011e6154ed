//! One connection as the rest of the client uses it: generated clients with limits, time-outs and the circuit breaker.

use std::{future::Future, sync::Arc, time::Duration};

use aqueduct_proto::v1::{
    admin_client::AdminClient, groups_client::GroupsClient, log_client::LogClient, topics_client::TopicsClient,
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Response, Status};

use super::{
    Channel,
    backoff::BackoffRange,
    breaker::{Admission, Breaker},
};
use crate::{
    client::ClientOptions,
    error::{BrokerError, Origin, RequestError},
};

/// Attempts of a request that changes nothing.
const READ_ATTEMPTS: u32 = 3;
const READ_RETRY: BackoffRange = BackoffRange { min: Duration::from_millis(20), max: Duration::from_millis(500) };

/// A channel and what is known about its other end. Clones share both.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    channel: Channel,
    breaker: Arc<Mutex<Breaker>>,
    options: ClientOptions,
}

impl Link {
    pub(crate) fn new(channel: Channel, options: ClientOptions) -> Self {
        Self { channel, breaker: Arc::new(Mutex::new(Breaker::new())), options }
    }

    pub(crate) fn log(&self) -> LogClient<Channel> {
        let bytes_max = self.options.message_bytes_max;
        LogClient::new(self.channel.clone()).max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max)
    }

    pub(crate) fn groups(&self) -> GroupsClient<Channel> {
        GroupsClient::new(self.channel.clone()).max_decoding_message_size(self.options.message_bytes_max)
    }

    pub(crate) fn topics(&self) -> TopicsClient<Channel> {
        TopicsClient::new(self.channel.clone()).max_decoding_message_size(self.options.message_bytes_max)
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    /// For one request and its answer.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.options.request_timeout
    }

    /// One attempt within the request time-out, unless the broker is known to be away.
    pub(crate) async fn unary<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RequestError> {
        self.unary_within(self.options.request_timeout, call).await
    }

    /// As [`unary`](Self::unary), with a time-out of its own (long polls).
    pub(crate) async fn unary_within<T>(
        &self,
        after: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RequestError> {
        let admission = self.breaker.lock().admit(Instant::now());
        if let Admission::Refused { retry_after } = admission {
            return Err(RequestError::Unreachable { source: None, retry_after: Some(retry_after) });
        }
        // Boxed: the futures of generated clients are large, and one allocation is nothing beside a request.
        match timeout(after, Box::pin(call)).await {
            Err(_) => {
                self.report_failure();
                Err(RequestError::TimedOut { after })
            }
            Ok(Ok(response)) => {
                self.report_success();
                Ok(response.into_inner())
            }
            Ok(Err(status)) => Err(self.judge(status).into()),
        }
    }

    /// A request that changes nothing: tried again, within the request time-out, while the broker cannot be reached.
    pub(crate) async fn read<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, RequestError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.options.request_timeout;
        let mut attempt = 0;
        loop {
            let error = match self.unary(call()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let delay = match &error {
                RequestError::Unreachable { retry_after, .. } => {
                    retry_after.unwrap_or_else(|| READ_RETRY.jittered(attempt))
                }
                RequestError::Rejected(broker) if broker.code == Code::Unavailable => READ_RETRY.jittered(attempt),
                RequestError::Rejected(_)
                | RequestError::TimedOut { .. }
                | RequestError::Closed
                | RequestError::Malformed { .. } => return Err(error),
            };
            attempt += 1;
            if attempt >= READ_ATTEMPTS || Instant::now() + delay >= deadline {
                return Err(error);
            }
            sleep(delay).await;
        }
    }

    /// Tells the breaker what a failed call or stream means.
    pub(crate) fn judge(&self, status: Status) -> BrokerError {
        let error = BrokerError::from(status);
        match error.origin {
            Origin::Broker => self.report_success(),
            Origin::Transport => self.report_failure(),
        }
        error
    }

    pub(crate) fn report_success(&self) {
        self.breaker.lock().success();
    }

    pub(crate) fn report_failure(&self) {
        self.breaker.lock().failure(Instant::now(), fastrand::f64());
    }
}
