//! The client of Aqueduct, an event log whose acknowledgement means that the event is on disk.
//!
//! ```no_run
//! # #[cfg(feature = "grpc")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use aqueduct_client::{Client, Record, Start};
//!
//! let client = Client::connect("http://127.0.0.1:7171").await?;
//! let receipt = client.publish("orders", Record::new("payload").key("customer-7")).await?;
//! println!("{receipt}"); // orders/3@1042
//!
//! let mut events = client.subscribe("orders").from(Start::Earliest).build().await?;
//! while let Some(event) = events.next().await {
//!     println!("{:?}", event?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | for | see |
//! |---|---|
//! | publishing one event durably | [`Client::publish`] |
//! | publishing many, pipelined | [`Producer`], [`Ticket`] |
//! | reading from anywhere, without a group | [`Subscription`], [`Client::fetch`] |
//! | consuming in a group, with acks | [`Consumer`], [`Delivery`] |
//! | handling events with a function | [`Consumer::run`], [`Job`], [`Failure`] |
//! | pausing a consumer, or slowing it down | [`ConsumerControl`] |
//! | topics, groups, lag | [`Client::topics`], [`Client::group`] |
//! | batches as bytes | [`codec`] |
//!
//! Everything needs a tokio runtime, is bounded in memory and in time, and may be dropped at any moment.
#![forbid(unsafe_code)]

mod admin;
mod client;
pub mod codec;
mod consumer;
mod dead_letters;
mod error;
mod lifecycle;
mod partitioner;
mod producer;
mod record;
mod schedule;
mod subscription;
mod table;
mod transport;
mod types;

pub use admin::{
    AlterGroup, AlterTopic, Backlog, BacklogMode, Cleanup, Compacted, CreateTopic, DailyWindow, DeadLetters,
    DeadLettersInfo, DeliveryHours, FailedPartition, FailedRecords, Group, GroupBehind, GroupDescription, GroupInfo,
    GroupMode, GroupPolicy, Groups, Info, LagForecast, LagWatch, LetterFilter, Limits, LossCause, Member, OnExhausted,
    PartitionInfo, PartitionLag, PartitionReset, PartitionWait, PublisherHold, ResetGroup, RetentionRisk, RetryPolicy,
    TakenOutMember, Topic, TopicConfig, TopicDescription, Topics, Verification, VerifyEvent, VerifyFinding,
    VerifySeverity, VerifySummary, VerifyTopic, WaitReason, WaitingRetries,
};
/// The messages and generated clients that this crate is built on.
pub use aqueduct_proto::v1 as proto;
pub use client::{Client, ClientOptions};
pub use codec::{DecodeError, EncodeError, EventBatch, Events, EventsAt, HeaderRefs, RecordRef, Records};
pub use consumer::{
    Consumer, ConsumerBuilder, ConsumerControl, ConsumerItem, ConsumerStats, Delivery, Failure, Job, Run, RunSummary,
};
pub use dead_letters::{DeadLetter, Death, Retry, RetryPlace, dead_letter_topic};
#[cfg(feature = "json")]
pub use error::JsonError;
pub use error::{
    AckError, BrokerError, CloseError, Code, ConnectError, ConsumeError, FetchError, OffsetOutOfRange, Origin,
    ProducerError, RequestError, SubscribeError,
};
pub use partitioner::{murmur2, partition_for_key};
pub use producer::{
    BatchTicket, FlushError, Hold, Idempotence, Producer, ProducerBuilder, ProducerStats, PublishError, RangeReceipt,
    Receipt, Ticket,
};
pub use record::{Event, Header, Record};
pub use schedule::{DUE_HEADER, Due, ScheduleError, Scheduled, Scheduler};
pub use subscription::{
    FetchBuilder, Fetched, Item, Position, Subscription, SubscriptionBuilder, SubscriptionStats, Window,
};
pub use table::{Change, Changes, ChangesMissed, Table, TableBuilder, TableError, TableStats};
pub use transport::Channel;
#[cfg(feature = "grpc")]
pub use transport::connect::ClientBuilder;
pub use types::{Codec, Durability, Gap, GapReason, Offset, Start, Timestamp, TopicId, UnknownName};
