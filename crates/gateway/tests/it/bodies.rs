use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use crate::support::{World, chunks, full, noise, post, send, soon, upstream};

const FIVE_MEGABYTES: usize = 5_000_000;

/// Answers with the request's own body, and says how it was framed.
async fn echo(request: Request<Incoming>) -> Response<crate::support::Body> {
    let framing = match request.headers().get("content-length") {
        Some(length) => format!("length {}", length.to_str().unwrap()),
        None => format!("{:?}", request.headers()["transfer-encoding"]),
    };
    let body = request.into_body().map_err(std::io::Error::other).boxed_unsync();
    Response::builder().header("x-framing", framing).body(body).unwrap()
}

#[tokio::test]
async fn five_megabytes_of_known_length_arrive_unchanged_both_ways() {
    let (url, _) = upstream(echo).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let sent = noise(FIVE_MEGABYTES);

    let response = send(replica.path(), post(full(sent.clone()))).await;

    assert_eq!(response.headers()["x-framing"], "length 5000000");
    assert_eq!(response.body().size_hint().exact(), Some(5_000_000));
    let received = soon("the body", response.into_body().collect()).await.unwrap().to_bytes();
    assert!(received == sent, "the bytes changed");
}

#[tokio::test]
async fn five_megabytes_in_chunks_arrive_unchanged_both_ways() {
    let (url, _) = upstream(echo).await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;
    let sent = noise(FIVE_MEGABYTES);
    let (input, body) = chunks();
    let source = sent.clone();
    tokio::spawn(async move {
        let mut at = 0;
        for size in [1, 77, 4_096, 65_537, 300_000].into_iter().cycle() {
            let end = (at + size).min(source.len());
            input.send(Ok(source.slice(at..end))).await.unwrap();
            at = end;
            if at == source.len() {
                break;
            }
        }
    });

    let response = send(replica.path(), post(body)).await;

    assert_eq!(response.headers()["x-framing"], "\"chunked\"");
    let received = soon("the body", response.into_body().collect()).await.unwrap().to_bytes();
    assert!(received == sent, "the bytes changed");
}

#[tokio::test]
async fn compressed_body_is_not_looked_into() {
    let (url, _) = upstream(|_| async {
        // Says gzip and is none: whoever unpacks it fails.
        Response::builder().header("content-encoding", "gzip").body(full(noise(1000))).unwrap()
    })
    .await;
    let world = World::new(&url);
    let replica = world.replica("marie-1", None).await;

    let response = send(replica.path(), post(full("{}"))).await;

    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), noise(1000));
}
