//! The thread pool that the lab's own tasks run on: a lab shared by many tests outlives the runtime of each.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    #[allow(
        clippy::expect_used,
        reason = "without threads there is no lab, and no caller that could do anything about it"
    )]
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("lab")
        .enable_all()
        .build()
        .expect("the system gives threads and an event queue")
});

/// The lab's runtime.
pub(crate) fn handle() -> Handle {
    RUNTIME.handle().clone()
}

/// Runs a future there, to its end, for a caller on any runtime.
pub(crate) async fn on<T: Send + 'static>(
    task: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = handle().spawn(task).await;
    done.map_err(|error| Error::Start(format!("a task of the lab failed: {error}")))?
}
