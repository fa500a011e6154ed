//! What was read for a client and is on its way to it.
//!
//! HTTP/2 lets a client stop taking what it has asked for, stream by stream, and the framework keeps up to two messages
//! for each such stream. So reading asks first: for bytes of the client's share, which go with the message, wherever it
//! waits, and come back when the last byte of it has been taken or its stream has ended.

use std::sync::Arc;

use parking_lot::Mutex;
use tonic::Extensions;

use crate::fair_pool::{AtLeast, Grant, SHARE_BYTES_MIN, Share};

/// Bytes in memory for each that was read: they are copied once when they are encoded, into a buffer that has grown by
/// doubling.
const BYTES_FOR_EACH: u64 = 2;

/// The answer of one call. Calls inside the process hand their messages over at once: nothing is on its way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outgoing {
    to_network: Option<ToNetwork>,
}

#[derive(Debug, Clone)]
struct ToNetwork {
    share: Arc<Share>,
    /// For the messages that are encoded next.
    attached: Arc<Mutex<Vec<Grant>>>,
}

/// How much may be read now.
#[derive(Debug)]
pub(crate) struct Allowance {
    bytes: u64,
    grant: Option<Grant>,
}

impl Outgoing {
    /// Over a connection with this share.
    #[cfg(feature = "server")]
    pub(crate) fn new(share: Arc<Share>) -> Self {
        Self { to_network: Some(ToNetwork { share, attached: Arc::default() }) }
    }

    /// Of the call that a request belongs to.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Leave to read up to `bytes`, or what is the client's due now; waits while that is next to nothing. One batch is read
    /// whole, however little is asked for: it has `batch_bytes`, as far as is known.
    pub(crate) async fn allowance(&self, bytes: usize, batch_bytes: usize) -> Allowance {
        let (least, most) = bounds(bytes, batch_bytes);
        let Some(ToNetwork { share, .. }) = &self.to_network else { return Allowance { bytes: most, grant: None } };
        let grant = share.take(BYTES_FOR_EACH * least, BYTES_FOR_EACH * most, AtLeast::OneWhole).await;
        Allowance { bytes: grant.bytes() / BYTES_FOR_EACH, grant: Some(grant) }
    }

    /// As [`Self::allowance`], if there is one now.
    pub(crate) fn try_allowance(&self, bytes: usize, batch_bytes: usize) -> Option<Allowance> {
        let (least, most) = bounds(bytes, batch_bytes);
        let Some(ToNetwork { share, .. }) = &self.to_network else {
            return Some(Allowance { bytes: most, grant: None });
        };
        let grant = share.try_take(BYTES_FOR_EACH * least, BYTES_FOR_EACH * most, AtLeast::OneWhole)?;
        Some(Allowance { bytes: grant.bytes() / BYTES_FOR_EACH, grant: Some(grant) })
    }

    /// The bytes that were read go out with the next message.
    pub(crate) fn send(&self, allowance: Allowance, bytes_read: usize) {
        if let (Some(ToNetwork { attached, .. }), Some(mut grant)) = (&self.to_network, allowance.grant)
            && bytes_read > 0
        {
            grant.resize(BYTES_FOR_EACH * bytes_read as u64);
            attached.lock().push(grant);
        }
    }

    /// What belongs to the bytes that are encoded now.
    #[cfg(feature = "server")]
    pub(crate) fn take_attached(&self) -> Vec<Grant> {
        self.to_network.as_ref().map(|network| std::mem::take(&mut *network.attached.lock())).unwrap_or_default()
    }
}

fn bounds(bytes: usize, batch_bytes: usize) -> (u64, u64) {
    // Less than would overflow.
    let (bytes, batch_bytes) = ((bytes as u64).min(u64::from(u32::MAX)), batch_bytes as u64);
    (bytes.min(SHARE_BYTES_MIN).max(batch_bytes), bytes.max(batch_bytes))
}

impl Allowance {
    /// How many bytes to read, at most.
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }
}
