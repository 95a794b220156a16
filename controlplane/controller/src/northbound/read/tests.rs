use super::*;
use crate::change::{Atomicity, write};
use crate::commit::{Committer, Transaction};
use crate::testbed::{MemoryStore, agent, agent_uri, checked, grant, insert, knowledge, tenant};

const FOREIGN: usize = 20_000;

async fn write(committer: &Committer, updates: &[v1::Update]) {
    for some in updates.chunks(5_000) {
        let parsed = checked(some).expect("good");
        let work = move |tx: &mut Transaction<'_>| write::batch(tx, &parsed, Atomicity::AllOrNone);
        committer.change(work).await.expect("written");
    }
}

async fn pages(state: &Arc<State>, scope: &Scope, page_size: u32) -> Vec<Vec<String>> {
    let sessions = Arc::new(Sessions::default());
    let (mut pages, mut page) = (Vec::new(), String::new());
    loop {
        let request = v1::ReadRequest {
            kind: Kind::Agent.into(),
            page_size,
            page,
            ..v1::ReadRequest::default()
        };
        let answer = super::page(state, &sessions, scope, &request).await;
        let answer = answer.expect("a page");
        let names = answer
            .entities
            .into_iter()
            .map(|entity| match entity.entity {
                Some(Body::Agent(agent)) => agent.uri,
                other => panic!("{other:?}"),
            });
        pages.push(names.collect());
        page = answer.next_page;
        if page.is_empty() {
            return pages;
        }
        // What is told of where to go on is one's own.
        assert_eq!(
            Some(&page),
            pages.last().and_then(|page: &Vec<String>| page.last())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_is_passed_by_a_bounded_number_at_a_time() {
    let store = Arc::new(MemoryStore::default());
    let state = State::open(store, knowledge(), 1_000).expect("opens");
    let (committer, _) = Committer::start(state.clone(), Box::new(|_| {})).expect("a thread");
    let mut world = vec![insert(tenant("mine")), insert(tenant("theirs"))];
    for i in 0..FOREIGN {
        let name = format!("a{i:05}");
        world.push(insert(agent(&name, "theirs", &[])));
        world.push(insert(grant(&name, "*")));
    }
    write(&committer, &world).await;
    let scope = Scope::of(Some(&["mine".to_owned()]));
    for kind in [Kind::Agent, Kind::Grant] {
        let sessions = Sessions::default();
        let (mut after, mut looked, mut holds) = (String::new(), 0, 0);
        loop {
            let rib = state.rib();
            let view = View {
                rib: &rib,
                knowledge: state.knowledge(),
                sessions: &sessions,
                scope: &scope,
            };
            let window = Window {
                key: "",
                after: &after,
                limit: 64,
            };
            let slice = rows(&view, kind, &window);
            drop(rib);
            assert!(slice.looked <= LOOK_MAX, "{}", slice.looked);
            assert!(slice.rows.is_empty());
            (looked, holds) = (looked + slice.looked, holds + 1);
            match slice.rest {
                Some(rest) => after = rest,
                None => break,
            }
        }
        assert_eq!((looked, holds), (FOREIGN, FOREIGN.div_ceil(LOOK_MAX)));
    }
    // Empty, and final.
    assert_eq!(pages(&state, &scope, 10).await, [Vec::<String>::new()]);
    // Some of one's own, far apart.
    let own = ["a00000x", "a09999x", "b"].map(|name| insert(agent(name, "mine", &[])));
    write(&committer, &own).await;
    let own = ["a00000x", "a09999x", "b"].map(agent_uri);
    assert_eq!(pages(&state, &scope, 0).await, [own.to_vec()]);
    assert_eq!(pages(&state, &scope, 2).await, [&own[..2], &own[2..]]);
    assert_eq!(pages(&state, &scope, 1).await, own.map(|name| vec![name]));
    // Who sees all of it is shown a bounded number at a time too.
    let everything = pages(&state, Scope::everything(), 10_000).await;
    assert_eq!(everything.concat().len(), FOREIGN + 3);
}
