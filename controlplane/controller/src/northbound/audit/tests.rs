use tonic::Code;

use super::*;
use crate::audit::{Auditor, Note};
use crate::commit::Committer;
use crate::testbed::{MemoryStore, knowledge};

type Task = tokio::task::JoinHandle<()>;

struct Bed {
    state: Arc<State>,
    committer: Committer,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new(records_max: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(MemoryStore::default());
        let state = State::open(store.clone(), knowledge(), 1_000).expect("opens");
        let auditor = Auditor::open(folder.path(), store.as_ref(), records_max).expect("opens");
        state.audit_by(auditor);
        let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
        Self {
            state,
            committer,
            _folder: folder,
        }
    }

    async fn record(&self, many: usize) {
        let recorded = self.committer.change(move |tx| {
            tx.notes.extend((0..many).map(|_| Note::default()));
            Ok(())
        });
        recorded.await.expect("recorded");
    }

    /// Reads all from now on, with room for one record and the last word.
    fn read(
        &self,
        stop: &watch::Sender<bool>,
        patience: Duration,
    ) -> (Task, mpsc::Receiver<Result<v1::AuditRecord, Status>>) {
        let rest = Rest {
            from: 0,
            begun: false,
            newest: self.state.audit_newest(),
            count: usize::MAX,
            patience,
        };
        let (outgoing, stream) = mpsc::channel(2);
        let (state, stop) = (self.state.clone(), stop.subscribe());
        let task = tokio::spawn(async move { tell(&state, rest, outgoing, stop).await });
        (task, stream)
    }
}

/// How many came, and how it ended.
async fn drain(
    mut stream: mpsc::Receiver<Result<v1::AuditRecord, Status>>,
) -> (usize, Option<Code>) {
    let mut told = 0;
    while let Some(next) = stream.recv().await {
        match next {
            Ok(_) => told += 1,
            Err(status) => return (told, Some(status.code())),
        }
    }
    (told, None)
}

#[tokio::test]
async fn what_is_forgotten_while_it_is_read_is_no_gap() {
    let bed = Bed::new(300);
    bed.record(300).await;
    let stop = watch::Sender::new(false);
    let (_, stream) = bed.read(&stop, SEND_TIMEOUT);
    assert_eq!(drain(stream).await, (300, None));
    let (_, mut stream) = bed.read(&stop, SEND_TIMEOUT);
    stream.recv().await.expect("begun").expect("a record");
    // The next slice is gone before the first one is read.
    bed.record(300).await;
    let first = bed.state.audit(0, 1).expect("reads");
    assert!(first[0].0 > SLICE as u64 + 1, "{}", first[0].0);
    assert_eq!(drain(stream).await, (SLICE - 1, Some(Code::Aborted)));
}

#[tokio::test]
async fn an_unread_stream_ends_and_says_so() {
    let bed = Bed::new(1_000);
    bed.record(10).await;
    let stop = watch::Sender::new(false);
    let (task, unread) = bed.read(&stop, Duration::from_millis(50));
    let ended = tokio::time::timeout(SEND_TIMEOUT, task).await;
    ended.expect("nobody has to read it").expect("ended");
    // One that waited, and the last word.
    assert_eq!(drain(unread).await, (1, Some(Code::DeadlineExceeded)));
    let (task, stopped) = bed.read(&stop, SEND_TIMEOUT * 10);
    stop.send_replace(true);
    let ended = tokio::time::timeout(SEND_TIMEOUT, task).await;
    ended.expect("it stops").expect("ended");
    let (told, end) = drain(stopped).await;
    assert!(told <= 1, "{told}");
    assert_eq!(end, Some(Code::Unavailable));
}
