//! What the broker said no with: the code, and the reason that programs decide by.

use std::collections::BTreeMap;

use aqueduct_client::{
    BrokerError, Code, ConsumeError, FetchError, ProducerError, PublishError, RequestError, SubscribeError,
};

/// An answer of the broker, taken out of whatever it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// The reason in `ErrorInfo`; empty if there is none.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The facts in `ErrorInfo`.
    pub metadata: BTreeMap<String, String>,
}

impl Refusal {
    /// Of an operation that had to fail by the broker's will.
    ///
    /// # Panics
    /// If it succeeded, or failed otherwise.
    #[track_caller]
    pub fn of<T, E: Into<Self>>(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => panic!("this was to be refused"),
            Err(error) => error.into(),
        }
    }

    /// Itself, if these are its code and its reason.
    ///
    /// # Panics
    /// With everything it says, otherwise.
    #[track_caller]
    pub fn expect(self, code: Code, reason: &str) -> Self {
        assert_eq!((self.code, self.reason.as_str()), (code, reason), "{self:?}");
        self
    }

    /// One of the facts.
    ///
    /// # Panics
    /// If it is not told.
    #[track_caller]
    pub fn fact(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }
}

impl From<BrokerError> for Refusal {
    fn from(error: BrokerError) -> Self {
        let reason = error.reason.unwrap_or_default();
        Self { code: error.code, reason, message: error.message, metadata: error.metadata }
    }
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        BrokerError::from(status).into()
    }
}

impl From<tonic_types::Status> for Refusal {
    fn from(status: tonic_types::Status) -> Self {
        use prost::Message as _;
        let details = status.encode_to_vec().into();
        tonic::Status::with_details(Code::from_i32(status.code), status.message, details).into()
    }
}

impl From<RequestError> for Refusal {
    #[track_caller]
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Rejected(error) => (*error).into(),
            other => panic!("no answer of the broker: {other}"),
        }
    }
}

impl From<ProducerError> for Refusal {
    #[track_caller]
    fn from(error: ProducerError) -> Self {
        match error {
            ProducerError::Request(error) => error.into(),
            other @ ProducerError::InvalidConfig { .. } => panic!("no answer of the broker: {other}"),
        }
    }
}

impl From<PublishError> for Refusal {
    #[track_caller]
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Rejected { error, .. } => (*error).into(),
            other => panic!("no answer of the broker: {other}"),
        }
    }
}

impl From<FetchError> for Refusal {
    #[track_caller]
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Request(error) => error.into(),
            other => panic!("no answer of the broker: {other}"),
        }
    }
}

impl From<SubscribeError> for Refusal {
    #[track_caller]
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Request(error) => error.into(),
            SubscribeError::Partition { error, .. } => (*error).into(),
            other => panic!("no answer of the broker: {other}"),
        }
    }
}

impl From<ConsumeError> for Refusal {
    #[track_caller]
    fn from(error: ConsumeError) -> Self {
        match error {
            ConsumeError::Request(error) => error.into(),
            ConsumeError::Partition { error, .. } => (*error).into(),
            other @ (ConsumeError::Decode(_) | ConsumeError::Damaged { .. } | ConsumeError::Unsettled { .. }) => {
                panic!("no answer of the broker: {other}")
            }
        }
    }
}
