//! Heads to parse and to rewrite: a small one and a browser's, and a server's answer.

use std::hint::black_box;

use rota::certs::CertStore;
use rota::proxy::answer::{BodyOut, Then, write_answer};
use rota::proxy::http1::head::{self, AnswerHead, Found, RequestHead, Version, field_space};
use rota::proxy::plan::{Facts, Peer, note, prepare};
use rota::routing::swap::{self, Reader};
use rota::routing::{Limits, Snapshot};

use super::tables;

/// What load generators send.
pub const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

/// What Firefox sends for a page, with a session.
pub const BROWSER: &[u8] = b"GET /articles/2026/11/a-story?ref=home HTTP/1.1\r\n\
Host: www.example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Referer: https://www.example.com/\r\n\
Connection: keep-alive\r\n\
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\
Upgrade-Insecure-Requests: 1\r\n\
Sec-Fetch-Dest: document\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-User: ?1\r\n\
Priority: u=0, i\r\n\
\r\n";

/// What an app server behind nginx answers; 1 KiB follows.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: nginx/1.30.0\r\n\
Date: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
Content-Type: text/html; charset=utf-8\r\n\
Content-Length: 1024\r\n\
Connection: keep-alive\r\n\
Cache-Control: max-age=60\r\n\
ETag: \"6740a1c0-400\"\r\n\
\r\n";

/// A request's head, to be found and parsed.
pub struct Parsing {
    bytes: &'static [u8],
    limits: Limits,
}

impl Parsing {
    pub fn of(bytes: &'static [u8]) -> Parsing {
        let mut one = Parsing {
            bytes,
            limits: Limits::default(),
        };
        one.run();
        one
    }

    pub fn run(&mut self) {
        let bytes = black_box(self.bytes);
        let mut space = field_space();
        assert_eq!(head::find_end(bytes, 0), Found::Whole(bytes.len()));
        black_box(head::request(bytes, &mut space, &self.limits)).expect("a good head");
    }
}

/// An answer's head, to be found and parsed.
pub struct AnswerParsing(&'static [u8]);

impl AnswerParsing {
    pub fn of(bytes: &'static [u8]) -> AnswerParsing {
        let mut one = AnswerParsing(bytes);
        one.run();
        one
    }

    pub fn run(&mut self) {
        let bytes = black_box(self.0);
        let mut space = field_space();
        assert_eq!(head::find_end(bytes, 0), Found::Whole(bytes.len()));
        black_box(head::answer(bytes, &mut space)).expect("a good head");
    }
}

/// A parsed request, to be decided about and written for its server: host, one route, fields, ids.
pub struct Rewriting {
    head: RequestHead<'static>,
    peer: Peer,
    snapshot: Snapshot,
    certificates: Reader<CertStore>,
    facts: Facts,
    out: Vec<u8>,
}

impl Rewriting {
    pub fn of(bytes: &'static [u8]) -> Rewriting {
        let space = Box::leak(Box::new(field_space()));
        let mut one = Rewriting {
            head: head::request(bytes, space, &Limits::default()).expect("a good head"),
            peer: tables::peer(),
            snapshot: tables::snapshot(tables::service(&["127.0.0.1:1".into()])),
            certificates: swap::channel(CertStore::default()).1,
            facts: Facts::default(),
            out: Vec::new(),
        };
        one.run();
        one
    }

    pub fn run(&mut self) {
        let Rewriting {
            head,
            peer,
            snapshot,
            certificates,
            facts,
            out,
        } = self;
        note(facts, black_box(head));
        black_box(prepare(head, peer, snapshot, certificates, facts, out)).expect("a route");
    }
}

/// A parsed answer, to be written for the client.
pub struct AnswerRewriting {
    head: AnswerHead<'static>,
    out: Vec<u8>,
}

impl AnswerRewriting {
    pub fn of(bytes: &'static [u8]) -> AnswerRewriting {
        let space = Box::leak(Box::new(field_space()));
        let mut one = AnswerRewriting {
            head: head::answer(bytes, space).expect("a good head"),
            out: Vec::new(),
        };
        one.run();
        one
    }

    pub fn run(&mut self) {
        self.out.clear();
        let length = BodyOut::Length(1024);
        write_answer(
            &mut self.out,
            black_box(&self.head),
            Version::Http11,
            length,
            Then::KeepAlive,
        );
        black_box(&self.out);
    }
}
