//! Two routers, r1 and r2, whose link goes through the impairer; agents attach to them directly. Refuses to know what
//! travels there.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use caplane::fabric::FabricConfig;
use caplane_load::impair::{Conditions, ImpairConfig, Impairer};

use crate::stage::Stage;

pub struct Relayed {
    pub stage: Stage,
    /// Up is from r1 to r2.
    pub link: Impairer,
}

impl Relayed {
    /// Starts everything; `tables` goes into both routers' configuration.
    pub async fn start(conditions: Conditions, tables: &str) -> Self {
        let listen = free_address();
        let seed = seed();
        eprintln!("seed of the path: {seed} (CAPLANE_SEED={seed} repeats it)");
        let config = ImpairConfig::to(listen, seed).with(conditions);
        let link = Impairer::start(config).expect("the impairer starts");
        // Of two neighbours the one with the lower label dials: r1.
        let stage = Stage::with(|folder| {
            let mut config = FabricConfig::line(folder, 2).expect("programs are built");
            config.routers[1].listen = Some(listen);
            config.routers[1].advertise = Some(link.local_addr().to_string());
            config.router_tables(tables)
        })
        .await;
        Self { stage, link }
    }

    /// Messages the routers dropped, by router and reason.
    pub async fn drops(&self) -> Vec<(String, f64)> {
        let mut drops = Vec::new();
        for router in ["r1", "r2"] {
            let metrics = self.stage.fabric.metrics(router).await.expect("metrics");
            let by_reason = metrics.by_label("router_drops_total", "reason");
            drops.extend(
                by_reason
                    .into_iter()
                    .map(|(r, n)| (format!("{router} {r}"), n)),
            );
        }
        drops
    }
}

fn seed() -> u64 {
    let given = std::env::var("CAPLANE_SEED").ok();
    given.map_or(1, |text| text.parse().expect("CAPLANE_SEED is a number"))
}

/// An address that nobody listens at. Below the ports that the system gives to whoever asks for any, so that nobody takes
/// it before the router does.
fn free_address() -> SocketAddr {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(
            step < COUNT,
            "no UDP port of {FIRST} to {} is free",
            FIRST + COUNT
        );
        let port = FIRST + (start + step) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}
