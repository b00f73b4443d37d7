//! How many instructions each case takes, counted by callgrind. The kernel's are not seen.

mod cases;

use cases::heads::{self, AnswerParsing, AnswerRewriting, Parsing, Rewriting};
use cases::requests::Exchange;
use cases::tables::{Picking, Routing};
use gungraun::{library_benchmark, library_benchmark_group, main};

/// Never dropped, so that no drop is counted.
fn kept<T>(case: T) -> &'static mut T {
    Box::leak(Box::new(case))
}

#[library_benchmark]
#[bench::small(kept(Parsing::of(heads::SMALL)))]
#[bench::browser(kept(Parsing::of(heads::BROWSER)))]
fn parse_request(case: &mut Parsing) {
    case.run();
}

#[library_benchmark]
#[bench::typical(kept(AnswerParsing::of(heads::ANSWER)))]
fn parse_answer(case: &mut AnswerParsing) {
    case.run();
}

#[library_benchmark]
#[bench::hosts_1(kept(Routing::of(1)))]
#[bench::hosts_10(kept(Routing::of(10)))]
#[bench::hosts_10000(kept(Routing::of(10_000)))]
fn route(case: &mut Routing) {
    case.run();
}

#[library_benchmark]
#[bench::servers_3(kept(Picking::of(3)))]
#[bench::servers_1000(kept(Picking::of(1000)))]
fn pick(case: &mut Picking) {
    case.run();
}

#[library_benchmark]
#[bench::small(kept(Rewriting::of(heads::SMALL)))]
#[bench::browser(kept(Rewriting::of(heads::BROWSER)))]
fn rewrite_request(case: &mut Rewriting) {
    case.run();
}

#[library_benchmark]
#[bench::typical(kept(AnswerRewriting::of(heads::ANSWER)))]
fn rewrite_answer(case: &mut AnswerRewriting) {
    case.run();
}

#[library_benchmark]
#[bench::small(kept(Exchange::of(heads::SMALL)))]
#[bench::browser(kept(Exchange::of(heads::BROWSER)))]
fn whole_request(case: &mut Exchange) {
    case.run();
}

library_benchmark_group!(
    name = all,
    benchmarks = [
        parse_request,
        parse_answer,
        route,
        pick,
        rewrite_request,
        rewrite_answer,
        whole_request
    ]
);
main!(library_benchmark_groups = all);
