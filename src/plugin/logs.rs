//! What a link's pods tell.

use clap::{Args, ValueEnum};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{ListParams, LogParams},
};

use super::{Error, Place, write};
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
            Ok(log) => all.push(log.lines().map_ok(move |line| format!("{prefix}{line}\n")).boxed()),
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
        write(out, &line.map_err(|error| Error::NotFound(format!("the log broke off: {error}")))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Response};
    use kube::{Client, client::Body};
    use serde_json::json;

    use super::*;

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
