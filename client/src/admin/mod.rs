//! Administration: topics, groups, and what the broker is.

mod groups;
mod info;
mod lag;
mod topics;
mod verify;

pub use groups::{
    AlterGroup, Group, GroupDescription, GroupInfo, GroupMode, GroupPolicy, Groups, Member, PartitionReset, ResetGroup,
};
pub use info::{FailedPartition, Info, Limits};
pub use lag::{LagWatch, PartitionLag};
pub use topics::{AlterTopic, CreateTopic, PartitionInfo, Topic, TopicConfig, TopicDescription, Topics};
pub use verify::{Verification, VerifyEvent, VerifyFinding, VerifySeverity, VerifySummary, VerifyTopic};
