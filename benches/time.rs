//! How long each case takes, in nanoseconds.

mod cases;

use std::time::Duration;

use cases::heads::{self, AnswerParsing, AnswerRewriting, Parsing, Rewriting};
use cases::requests::Exchange;
use cases::tables::{Picking, Routing};
use criterion::{Criterion, criterion_group, criterion_main};

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse_request");
    for (name, bytes) in [("small", heads::SMALL), ("browser", heads::BROWSER)] {
        let mut case = Parsing::of(bytes);
        group.bench_function(name, |bencher| bencher.iter(|| case.run()));
    }
    group.finish();
    let mut case = AnswerParsing::of(heads::ANSWER);
    criterion.bench_function("parse_answer/typical", |bencher| {
        bencher.iter(|| case.run())
    });
}

fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for hosts in [1, 10, 10_000] {
        let mut case = Routing::of(hosts);
        group.bench_function(format!("hosts_{hosts}"), |bencher| {
            bencher.iter(|| case.run())
        });
    }
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for servers in [3, 1000] {
        let mut case = Picking::of(servers);
        group.bench_function(format!("servers_{servers}"), |bencher| {
            bencher.iter(|| case.run())
        });
    }
}

fn rewrite(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rewrite_request");
    for (name, bytes) in [("small", heads::SMALL), ("browser", heads::BROWSER)] {
        let mut case = Rewriting::of(bytes);
        group.bench_function(name, |bencher| bencher.iter(|| case.run()));
    }
    group.finish();
    let mut case = AnswerRewriting::of(heads::ANSWER);
    criterion.bench_function("rewrite_answer/typical", |bencher| {
        bencher.iter(|| case.run())
    });
}

fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole_request");
    for (name, bytes) in [("small", heads::SMALL), ("browser", heads::BROWSER)] {
        let mut case = Exchange::of(bytes);
        group.bench_function(name, |bencher| bencher.iter(|| case.run()));
    }
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = parse, route, pick, rewrite, whole
}
criterion_main!(all);
