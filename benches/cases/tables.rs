//! Tables as the data plane reads them: routes of many hosts, services of many servers.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use rota::proxy::plan::Peer;
use rota::routing::{
    HostPattern, Limits, ListenerPolicy, Member, Prefix, Protocol, RetryPolicy, Route, RouteTable,
    Scheme, Service, ServiceMeasured, ServiceName, Signal, Snapshot, Standing, Timeouts, Upstream,
    UpstreamKey, Verdict, WorkerId,
};

/// The only worker.
pub const WORKER: WorkerId = WorkerId(0);

/// A route table of so many hosts, and one of them to look for.
pub struct Routing {
    table: RouteTable,
    host: String,
}

impl Routing {
    pub fn of(hosts: usize) -> Routing {
        let service = service(&["127.0.0.1:1".into()]);
        let name = |host: usize| format!("host-{host}.example.com");
        let routes = (0..hosts).map(|host| route(&name(host), &service));
        let mut one = Routing {
            table: RouteTable::build(routes).0,
            host: name(hosts / 2),
        };
        one.run();
        one
    }

    pub fn run(&mut self) {
        let (host, path) = black_box((&*self.host, "/articles/2026/11/a-story"));
        black_box(self.table.find(host, path)).expect("a route");
    }
}

/// A service of so many servers, whose turn it is to be found.
pub struct Picking(Arc<Service>);

impl Picking {
    pub fn of(servers: u16) -> Picking {
        let address = |port: u16| format!("127.0.0.1:{}", port + 1);
        let mut one = Picking(service(&(0..servers).map(address).collect::<Vec<_>>()));
        one.run();
        one
    }

    pub fn run(&mut self) {
        black_box(self.0.pick(black_box(WORKER), 1, &[])).expect("a server");
    }
}

/// A service of servers at these addresses, all of them well.
pub fn service(addresses: &[String]) -> Arc<Service> {
    let name = ServiceName::parse("app").expect("a name");
    let standing = Arc::new(standing());
    let member = |(number, address): (u64, &String)| Member {
        upstream: upstream(&name, number, address),
        host_name: None,
        weight: 1,
        standing: standing.clone(),
    };
    let members: Box<[Member]> = (1..).zip(addresses).map(member).collect();
    let (turn, reserve) = Service::turns(&members, None);
    Arc::new(Service {
        name,
        members,
        turn,
        reserve,
        protocol: Protocol::Http,
        retry: RetryPolicy::default(),
        pool: 128,
        in_flight: None,
        measured: Arc::new(ServiceMeasured::new(1)),
        phase: 0,
        groups: None,
    })
}

fn upstream(service: &ServiceName, number: u64, address: &str) -> Arc<Upstream> {
    let key = UpstreamKey {
        service: service.clone(),
        address: address.parse().expect("an address"),
    };
    Arc::new(Upstream::new(key, number, address.into(), 1))
}

fn standing() -> Standing {
    let signal = || Signal::new(Verdict::Fit, "passing", "", SystemTime::UNIX_EPOCH);
    Standing {
        consul: signal(),
        probe: signal(),
        passive: signal(),
        operator: signal(),
        source: "file",
        group: None,
        doubt: None,
        remembered: None,
        history: Arc::new([]),
    }
}

fn route(host: &str, service: &Arc<Service>) -> Arc<Route> {
    Arc::new(Route {
        name: host.into(),
        host: HostPattern::parse(host).expect("a host"),
        path: Prefix::parse("/").expect("a path"),
        service: service.clone(),
        number: 1,
    })
}

/// A snapshot that leads every host to one service.
pub fn snapshot(service: Arc<Service>) -> Snapshot {
    Snapshot {
        routes: RouteTable::build([route("*", &service)]).0,
        limits: Limits::default(),
        timeouts: Timeouts::default(),
        ..Snapshot::default()
    }
}

/// A client on a plain listener.
pub fn peer() -> Peer {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Peer {
        listener: Arc::new(ListenerPolicy {
            name: "plain".into(),
            address: (address, 80).into(),
            scheme: Scheme::Http,
            redirect: None,
            trusted_proxies: Arc::new([]),
            proxy_protocol: false,
        }),
        address,
        address_text: address.to_string(),
        is_trusted: false,
        tls: None,
    }
}
