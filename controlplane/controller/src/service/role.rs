//! Keeps what this controller may do in line with what the store says.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::commit::{Committer, State};

/// After a failure it is looked again this much later.
const RETRY: Duration = Duration::from_millis(500);

/// Has the commit thread look whenever the store has news, until `stop`.
pub(super) async fn keep(state: Arc<State>, committer: Committer, mut stop: watch::Receiver<bool>) {
    let mut news = state.news();
    let mut failed = false;
    loop {
        tokio::select! {
            changed = news.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(RETRY), if failed => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // The commit thread says why.
        failed = committer.settle().await.is_err();
    }
}
