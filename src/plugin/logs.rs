//! What a link's pods tell.

use clap::{Args, ValueEnum};
use futures::{AsyncBufReadExt as _, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{ListParams, LogParams},
};

use super::{Error, Place, is_read};
use crate::{
    api::conditions::mark::{LINK, ROLE},
    controller::names::Component,
};

/// Options of `kubectl link logs`.
#[derive(Args, Debug)]
pub struct Options {
    /// The LinkConnection.
    link: String,
    /// Go on as more is told.
    #[arg(short, long)]
    follow: bool,
    /// The last lines of each pod. Default: all.
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// Of pods of this shape.
    #[arg(long, value_enum, default_value_t = Shape::Worker)]
    pods: Shape,
    /// Of the container before, if it was restarted.
    #[arg(short, long)]
    previous: bool,
}

/// The shape of a pod.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// It replicates.
    Worker,
    /// It asks whether a link that rests could run.
    Probe,
    /// It removes what a link made.
    Release,
}

impl From<Shape> for Component {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Worker => Self::Worker,
            Shape::Probe => Self::Probe,
            Shape::Release => Self::Release,
        }
    }
}

/// Prints the logs of a link's pods: of several with their names. Of several, one that has none yet keeps no others from being read.
pub async fn print(place: &Place, options: &Options, out: &mut (dyn std::io::Write + Send)) -> Result<(), Error> {
    let api = place.api::<Pod>();
    let component = Component::from(options.pods);
    let of_link = ListParams::default().labels(&format!("{LINK}={},{ROLE}={component}", options.link));
    let pods: Vec<String> = api.list(&of_link).await?.items.iter().map(ResourceExt::name_any).collect();
    if pods.is_empty() {
        let link = place.link(&options.link).await?;
        let phase = link.status.and_then(|status| status.phase).unwrap_or_default();
        return Err(Error::NotFound(format!("link {} has no {component} pod now: it is {phase}", options.link)));
    }
    let params = LogParams { follow: options.follow, tail_lines: options.tail, previous: options.previous, ..LogParams::default() };
    let several = pods.len() > 1;
    let (mut all, mut refused) = (Vec::new(), None);
    for pod in pods {
        let prefix = if several { format!("[{pod}] ") } else { String::new() };
        match api.log_stream(&pod, &params).await {
            Ok(log) => {
                // One that breaks off ends no other.
                let line = move |line: std::io::Result<String>| match line {
                    Ok(line) => format!("{prefix}{line}\n"),
                    Err(error) => format!("{prefix}error: the log broke off: {error}\n"),
                };
                all.push(log.lines().map(line).boxed());
            }
            Err(error) => {
                if several {
                    eprintln!("{prefix}error: {error}");
                }
                refused = Some(error);
            }
        }
    }
    if let Some(error) = refused.filter(|_| all.is_empty()) {
        return Err(error.into());
    }
    // One that is followed never ends: all at once. Else one after the other, as they are easier to read.
    let mut lines = if options.follow { stream::select_all(all).boxed() } else { stream::iter(all).flatten().boxed() };
    while let Some(line) = lines.next().await {
        if !is_read(out, &line)? {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Response};
    use kube::{Client, client::Body};
    use serde_json::json;

    use super::*;

    /// A reader that has had enough after the first line.
    struct Head(usize);

    impl std::io::Write for Head {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 > 1 { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(text.len()) }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn it_ends_when_nobody_reads_any_more() {
        let service = tower::service_fn(async |request: Request<Body>| {
            let pods = json!({"metadata": {}, "items": [{"metadata": {"name": "shop-0"}}]}).to_string();
            let body = if request.uri().path().ends_with("/log") { "a line\n".repeat(3) } else { pods };
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(body.into_bytes())))
        });
        let place = Place { client: Client::new(service, "shops"), namespace: "shops".to_owned() };
        let options = Options { link: "shop".to_owned(), follow: true, tail: None, pods: Shape::Worker, previous: false };
        let mut out = Head(0);
        print(&place, &options, &mut out).await.unwrap();
        assert_eq!(out.0, 2);
    }

    /// What is printed where one pod of two has not started, or neither has.
    async fn printed(started: &'static str) -> Result<String, Error> {
        let service = tower::service_fn(move |request: Request<Body>| async move {
            let path = request.uri().path();
            let (code, body) = if path.ends_with("/pods") {
                let pod = |name: &str| json!({"metadata": {"name": name}});
                (200, json!({"metadata": {}, "items": [pod("shop-0"), pod("shop-1")]}).to_string())
            } else if path.ends_with(&format!("/{started}/log")) {
                (200, "well\n".to_owned())
            } else {
                let waits = "container \"worker\" is waiting to start: ContainerCreating";
                (400, json!({"kind": "Status", "status": "Failure", "code": 400, "reason": "BadRequest", "message": waits}).to_string())
            };
            Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap())
        });
        let place = Place { client: Client::new(service, "shops"), namespace: "shops".to_owned() };
        let options = Options { link: "shop".to_owned(), follow: false, tail: None, pods: Shape::Worker, previous: false };
        let mut out = Vec::new();
        print(&place, &options, &mut out).await?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn a_pod_that_has_not_started_keeps_no_other_from_being_read() {
        assert_eq!(printed("shop-0").await.unwrap(), "[shop-0] well\n");
        assert_eq!(printed("shop-1").await.unwrap(), "[shop-1] well\n");
        assert!(printed("none").await.unwrap_err().to_string().contains("waiting to start"));
    }
}
