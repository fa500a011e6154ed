//! Administration: topics, groups, and what the broker is.

mod backlog;
mod groups;
mod hours;
mod info;
mod lag;
mod letters;
mod policy;
mod topics;
mod trouble;
mod verify;

pub use backlog::{Backlog, BacklogMode, GroupBehind, PublisherHold};
pub use groups::{
    AlterGroup, FailedRecords, Group, GroupDescription, GroupInfo, Groups, Member, PartitionReset, ResetGroup,
};
pub use hours::{DailyWindow, DeliveryHours};
pub use info::{FailedPartition, Info, Limits};
pub use lag::{LagForecast, LagWatch, LossCause, PartitionLag, RetentionRisk};
pub use letters::{DeadLetters, DeadLettersInfo, LetterFilter};
pub use policy::{GroupMode, GroupPolicy, OnExhausted, RetryPolicy};
pub use topics::{
    AlterTopic, Cleanup, Compacted, CreateTopic, PartitionInfo, Topic, TopicConfig, TopicDescription, Topics,
};
pub use trouble::{PartitionWait, TakenOutMember, WaitReason, WaitingRetries};
pub use verify::{Verification, VerifyEvent, VerifyFinding, VerifySeverity, VerifySummary, VerifyTopic};
