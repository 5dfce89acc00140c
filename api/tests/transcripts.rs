//! Request bytes → answer bytes, to the letter.

mod harness;

use harness::Server;

const PONG: &str = "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n\
                    Content-Length: 20\r\n\r\n{\"version\":\"51.1.0\"}";
const DONE: &str = "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n";

fn refusal(status: u16, extra: &str, connection: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} \r\nServer: Cloud Hypervisor API\r\nConnection: {connection}\r\n{extra}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn answers_have_the_bytes_that_clients_expect() {
    let server = Server::start();
    let keep = |status, body: &str| refusal(status, "", "keep-alive", body);
    let shutdown = "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n\
                    Content-Length: 0\r\n\r\n";
    for (request, answer) in [
        // Kata's Go runtime, ch-remote, curl.
        (
            "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n",
            PONG.to_owned(),
        ),
        ("GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", PONG.to_owned()),
        // A PUT without any length is a PUT without a body.
        ("PUT /api/v1/vm.boot HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", DONE.to_owned()),
        ("PUT /api/v1/vm.boot HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", DONE.to_owned()),
        ("PUT /api/v1/vmm.shutdown HTTP/1.1\r\n\r\n", shutdown.to_owned()),
        (
            "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 15\r\n\r\n{\"unknown\":null}",
            keep(400, "[\"Failed to deserialize JSON\",\"EOF while parsing an object at line 1 column 15\"]"),
        ),
        ("PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 14\r\n\r\n{\"unknown\":42}", DONE.to_owned()),
        (
            "PUT /api/v1/vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
            DONE.to_owned(),
        ),
        // Text beyond ASCII is escaped.
        ("GET /api/v1/vm.info HTTP/1.1\r\n\r\n", keep(200, "{\"name\":\"gr\\u00fcn\"}")),
        // A body on GET is read and not looked at.
        ("GET /api/v1/vmm.ping HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", PONG.to_owned()),
        // Refusals.
        ("GET /api/v1/vm.nonsense HTTP/1.1\r\n\r\n", keep(404, "[\"Not Found\"]")),
        ("GET /api/v1/vm.info?x=1 HTTP/1.1\r\n\r\n", keep(404, "[\"Not Found\"]")),
        ("GET / HTTP/1.1\r\n\r\n", keep(404, "[\"Not Found\"]")),
        ("OPTIONS * HTTP/1.1\r\n\r\n", keep(404, "[\"Not Found\"]")),
        (
            "DELETE /api/v1/vm.info HTTP/1.1\r\n\r\n",
            refusal(405, "Allow: GET\r\n", "keep-alive", "[\"Method Not Allowed\",\"vm.info is a GET\"]"),
        ),
        (
            "TRACE /api/v1/vm.boot HTTP/1.1\r\n\r\n",
            refusal(405, "Allow: PUT\r\n", "keep-alive", "[\"Method Not Allowed\",\"vm.boot is a PUT\"]"),
        ),
        (
            "PUT /api/v1/vm.pause HTTP/1.1\r\n\r\n",
            refusal(405, "Allow: PUT\r\n", "keep-alive", "[\"Error from API\",\"The VM is not running\"]"),
        ),
        (
            "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 3\r\n\r\n{1}",
            keep(400, "[\"Failed to deserialize JSON\",\"key must be a string at line 1 column 2\"]"),
        ),
        ("PUT /api/v1/vm.create HTTP/1.1\r\n\r\n", keep(400, "[\"Bad Request\",\"vm.create needs a body\"]")),
        (
            "PUT /api/v1/vm.resume HTTP/1.1\r\n\r\n",
            keep(500, "[\"Error from API\",\"the monitor is shutting down\"]"),
        ),
        // Who asks for the connection to be closed is told that it is.
        ("GET /api/v1/vmm.ping HTTP/1.1\r\nConnection: close\r\n\r\n", PONG.replace("keep-alive", "close")),
        (
            "GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n",
            PONG.replace("keep-alive", "close").replace("HTTP/1.1", "HTTP/1.0"),
        ),
        (
            "GET /api/v1/vmm.ping HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            PONG.replace("HTTP/1.1", "HTTP/1.0"),
        ),
        ("GET http://localhost/api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n", PONG.to_owned()),
        // What is no HTTP at all.
        ("nonsense\r\n\r\n", refusal(400, "", "close", "[\"Bad Request\",\"the request is not HTTP\"]")),
        (
            "PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            refusal(400, "", "close", "[\"Bad Request\",\"the request is not HTTP\"]"),
        ),
    ] {
        assert_eq!(server.exchange(request.as_bytes(), 1), answer, "{request}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    let server = Server::start();
    let answer =
        server.exchange(b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 9\r\n\r\n{\"\xff\xfe\":1}\n", 1);
    assert!(answer.starts_with("HTTP/1.1 400 \r\n"), "{answer}");
    assert!(answer.contains("[\"Failed to deserialize JSON\","), "{answer}");
    let answer = server.exchange(b"GET /api/v1/\xff\xfe HTTP/1.1\r\n\r\n", 1);
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[test]
fn a_request_may_come_in_pieces_cut_anywhere() {
    let server = Server::start();
    let request = b"PUT /api/v1/vm.create HTTP/1.1\r\nHost: localhost\r\nContent-Length: 26\r\n\r\n{\"payload\":{\"kernel\":\"k\"}}";
    let mut client = server.connect();
    for cut in 1..request.len() {
        client.send(&request[..cut]);
        client.send(&request[cut..]);
        assert_eq!(client.answer(), DONE, "cut at {cut}");
    }
    for byte in request {
        client.send(&[*byte]);
    }
    assert_eq!(client.answer(), DONE);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let ping = "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
    let boot = "PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
    let create = "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    let requests = [ping, create, boot, ping, ping, boot].concat();
    let answers = [PONG, DONE, DONE, PONG, PONG, DONE].concat();
    assert_eq!(server.exchange(requests.as_bytes(), 6), answers);
    // The same in two packets, cut anywhere.
    for cut in (1..requests.len()).step_by(7) {
        let mut client = server.connect();
        client.send(&requests.as_bytes()[..cut]);
        client.send(&requests.as_bytes()[cut..]);
        assert_eq!((0..6).map(|_| client.answer()).collect::<String>(), answers, "cut at {cut}");
    }
}

#[test]
fn who_expects_a_go_ahead_gets_it_first() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(b"PUT /api/v1/vm.create HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.answer(), "HTTP/1.1 100 \r\n\r\n");
    client.send(b"{}");
    assert_eq!(client.answer(), DONE);
    client.send(b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n");
    assert_eq!(client.answer(), PONG);
}

#[test]
fn who_sends_and_closes_one_way_still_gets_the_answer() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n");
    client.no_more();
    assert_eq!(client.rest(), PONG);
}
