//! Changes that must not be left half done because their caller went away.

use std::{future::Future, panic};

use tokio::task::JoinError;

/// Runs `change` to its end although the caller may stop waiting: a request that is cancelled or late loses its answer,
/// not the second half of what it began.
pub(crate) async fn to_the_end<T: Send + 'static>(change: impl Future<Output = T> + Send + 'static) -> T {
    joined(tokio::spawn(change)).await
}

/// What a task comes to. Its panic goes on here.
pub(crate) async fn joined<T>(task: impl Future<Output = Result<T, JoinError>>) -> T {
    match task.await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => panic::resume_unwind(panic),
            // The runtime is shutting down, and whoever waits with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_change_goes_on_after_its_caller_has_gone() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let change = to_the_end(async move {
            let _ = gone.await;
            let _ = done.send(());
        });
        tokio::select! {
            biased;
            () = change => panic!("it cannot have ended"),
            () = tokio::task::yield_now() => {}
        }
        go.send(()).unwrap();
        finished.await.unwrap();
    }
}
