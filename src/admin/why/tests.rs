//! Each kind of question, against a small table.

use super::*;
use crate::routing::measured::ServiceMeasured;
use crate::routing::standing::{Standing, Transition};
use crate::routing::upstream::Unfit;
use crate::routing::{
    Prefix, Protocol, RetryPolicy, RouteTable, ServiceName, Signal, Upstream, UpstreamKey, Verdict,
};
use std::sync::Arc;
use std::time::Duration;

fn member(service: &ServiceName, port: u16, unfit: Option<Unfit>) -> Member {
    let address = SocketAddr::from(([10, 0, 0, 7], port));
    let key = UpstreamKey {
        service: service.clone(),
        address,
    };
    let upstream = Upstream::new(key, u64::from(port), address.to_string().into(), 1);
    let since = SystemTime::now() - Duration::from_secs(75);
    let fit = Signal::new(Verdict::Fit, "passing", "", since);
    let mut standing = Standing {
        consul: fit.clone(),
        probe: fit.clone(),
        passive: fit.clone(),
        operator: fit,
        source: "consul",
        group: None,
        doubt: None,
        remembered: None,
        history: Arc::new([]),
    };
    if let Some(bit) = unfit {
        upstream.set(bit);
        let evidence = "disk: <b>full</b>\u{1b}[2J";
        standing.consul = Signal::new(Verdict::Unfit, "critical", evidence, since);
        standing.history = Arc::new([Transition {
            at: since,
            signal: "consul",
            from: "fit",
            to: "unfit",
            evidence: evidence.into(),
        }]);
    }
    Member {
        upstream: Arc::new(upstream),
        host_name: None,
        weight: 1,
        standing: Arc::new(standing),
    }
}

fn service(name: &str, members: Box<[Member]>) -> Arc<Service> {
    let (turn, reserve) = Service::turns(&members, None);
    Arc::new(Service {
        name: name.into(),
        members,
        turn,
        reserve,
        protocol: Protocol::Http,
        retry: RetryPolicy::default(),
        pool: 8,
        in_flight: None,
        measured: Arc::new(ServiceMeasured::new(1)),
        phase: 0,
        groups: None,
    })
}

fn route(name: &str, host: &str, path: &str, service: &Arc<Service>, number: u32) -> Arc<Route> {
    Arc::new(Route {
        name: name.into(),
        host: HostPattern::parse(host).unwrap(),
        path: Prefix::parse(path).unwrap(),
        service: service.clone(),
        number,
    })
}

/// Services `shop` (one server critical, one well) and `blog`; routes by exact host, wildcard and `*`.
pub(in crate::admin) fn table() -> Snapshot {
    let shop_name = ServiceName::from("shop");
    let shop = service(
        "shop",
        [
            member(&shop_name, 80, None),
            member(&shop_name, 81, Some(Unfit::Check)),
        ]
        .into(),
    );
    let blog = service("blog", [member(&"blog".into(), 80, None)].into());
    let (routes, _) = RouteTable::build([
        route("shop", "shop.example.com", "/", &shop, 1),
        route("news", "shop.example.com", "/news", &blog, 2),
        route("below", "*.example.com", "/", &blog, 3),
        route("rest", "*", "/static", &blog, 4),
    ]);
    let mut snapshot = Snapshot {
        generation: 1,
        routes,
        ..Snapshot::default()
    };
    for service in [shop, blog] {
        snapshot.services.insert(service.name.clone(), service);
    }
    snapshot
}

fn ask(question: &str) -> Answer {
    explain(&table(), question, SystemTime::now())
}

fn route_of(question: &str) -> RouteAnswer {
    match ask(question) {
        Answer::Route(route) => *route,
        other => panic!("{question}: {other:?}"),
    }
}

#[test]
fn a_service_is_explained_with_each_servers_signals_and_times() {
    let Answer::Service(shop) = ask("shop") else {
        panic!("a service")
    };
    assert_eq!((shop.summary.up, shop.summary.total), (1, 2));
    let sick = &shop.servers[1];
    assert!(!sick.on_the_rota);
    assert_eq!(sick.because, "consul says critical for 1m15s");
    assert_eq!(sick.signals[0].since_s, 75);
    assert_eq!(sick.history.len(), 1);
}

#[test]
fn a_server_is_found_by_service_and_label_by_address_and_by_ip() {
    for (question, count) in [
        ("shop/10.0.0.7:81", 1),
        ("10.0.0.7:80", 2),
        ("10.0.0.7:81", 1),
        ("10.0.0.7", 3),
    ] {
        match ask(question) {
            Answer::Servers { servers } => assert_eq!(servers.len(), count, "{question}"),
            other => panic!("{question}: {other:?}"),
        }
    }
    match ask("shop/10.0.0.7:82") {
        Answer::Unknown { near, .. } => assert!(near.contains(&"shop/10.0.0.7:81".to_owned())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_host_or_url_is_explained_by_its_route_and_those_that_lost() {
    for (question, name) in [
        ("shop.example.com", "shop"),
        ("SHOP.example.com:443", "shop"),
        ("https://shop.example.com/news/today?x=/#y", "news"),
        ("shop.example.com/newsletter", "shop"),
        ("a.b.example.com", "below"),
        ("http://elsewhere.net/static/x", "rest"),
    ] {
        assert_eq!(route_of(question).route.unwrap().name, name, "{question}");
    }
    let news = route_of("shop.example.com/news");
    let lost: Vec<&str> = news.others.iter().map(|o| &*o.route.name).collect();
    assert_eq!(lost, ["rest", "below", "shop"]);
    assert_eq!(news.others[2].why_not, "another route's path is longer");
    assert_eq!(news.service.unwrap().summary.name, "blog");
}

#[test]
fn localhost_and_a_word_with_a_slash_are_hosts() {
    for (question, host) in [
        ("localhost", "localhost"),
        ("localhost/", "localhost"),
        ("printer/", "printer"),
        ("shpo/", "shpo"),
    ] {
        let answer = route_of(question);
        assert_eq!((&*answer.host, &*answer.path), (host, "/"), "{question}");
    }
    assert_eq!(route_of("localhost/static").route.unwrap().name, "rest");
    let text = for_people(&ask("printer"));
    assert!(text.contains("if it is a host, ask for printer/"), "{text}");
}

#[test]
fn the_more_specific_host_is_named_where_it_decides_before_the_path() {
    let blog = service("blog", [].into());
    let (routes, _) = RouteTable::build([
        route("all", "*", "/", &blog, 1),
        route("news", "www.example.com", "/news", &blog, 2),
    ]);
    let snapshot = Snapshot {
        routes,
        ..Snapshot::default()
    };
    let question = "www.example.com/other";
    let Answer::Route(answer) = explain(&snapshot, question, SystemTime::now()) else {
        panic!("a route")
    };
    assert!(answer.route.is_none());
    assert!(answer.because.contains("decides, www.example.com, and"));
    let why: Vec<&str> = answer.others.iter().map(|o| &*o.why_not).collect();
    let decides = "the more specific host www.example.com decides, before any path";
    assert_eq!(why, [decides, "its path does not have this one"]);
}

#[test]
fn what_is_refused_is_explained_as_well() {
    let no_path = route_of("http://elsewhere.net/");
    assert!(no_path.route.is_none() && no_path.because.contains("404"));
    let two_ways = route_of("shop.example.com/news/../x");
    assert!(
        two_ways.because.contains("different routes"),
        "{}",
        two_ways.because
    );
    assert!(route_of("shop.example.com/%zz").because.contains("400"));
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest() {
    for question in ["shpo", "Shop "] {
        match ask(question) {
            Answer::Unknown { near, .. } => assert_eq!(near[0], "shop", "{question}"),
            other => panic!("{question}: {other:?}"),
        }
    }
    for question in ["", "a b", "https://", "//", "\0", &"x".repeat(9_999)] {
        assert!(
            matches!(ask(question), Answer::Unknown { .. }),
            "{question:?}"
        );
    }
}

#[test]
fn words_hold_the_reason_and_obey_no_terminal_codes() {
    let text = for_people(&ask("https://shop.example.com/"));
    assert!(text.contains("goes by route shop"), "{text}");
    assert!(text.contains("consul says critical"), "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    assert!(for_people(&ask("shpo")).contains("did you mean shop"));
}

#[test]
fn an_answer_survives_its_way_through_json() {
    for question in ["shop", "10.0.0.7:81", "shop.example.com", "shpo"] {
        let answer = ask(question);
        let json = serde_json::to_string(&answer).unwrap();
        let back: Answer = serde_json::from_str(&json).unwrap();
        assert_eq!(for_people(&answer), for_people(&back));
    }
}
