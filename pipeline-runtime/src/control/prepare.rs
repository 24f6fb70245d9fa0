use crate::broker::{Broker, BrokerError, TopicWish, Uses};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::timeout;

/// How long a broker may take over one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Over the one what we may do: it is many, and a cluster that was never read from makes its place for commits first.
const RIGHTS_WITHIN: Duration = Duration::from_secs(8);

const REACH: &str = "check its address in spec.backends, that it runs, and that pods get there";
const LOGIN: &str = "check its login in spec.backends, the Secret that it names, and what that user may do";

/// What a process needs of each broker that it may be led to.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    pub topics: Vec<TopicWish>,
    pub uses: Uses,
}

/// Whether a broker can be used as it will be: it answers, lets us in, its topics take what the pipeline writes, we may write and read
/// there as we have to, and the way to it is open and warm. If not, why, in a sentence. Topics that are missing are made where that is
/// allowed.
pub async fn usable(broker: &dyn Broker, needs: &Needs) -> Result<(), String> {
    let (name, wishes) = (broker.name(), &needs.topics);
    let late = |_| format!("{name} does not answer in time; {REACH}");
    timeout(ANSWER_WITHIN, broker.connected()).await.map_err(late)?.map_err(|error| advised(&error))?;
    let made = timeout(ANSWER_WITHIN, broker.ensure_topics(wishes)).await.map_err(late)?;
    let all = join_all(wishes.iter().map(|wish| timeout(ANSWER_WITHIN, broker.topic(&wish.name)))).await;
    let mut hidden = Ok(());
    for (wish, facts) in wishes.iter().zip(all) {
        let facts = match facts.map_err(late)? {
            // All that is not allowed is said at once, below.
            Err(error @ BrokerError::NotAllowed { .. }) => {
                hidden = Err(advised(&error));
                continue;
            }
            facts => facts.map_err(|error| advised(&error))?,
        };
        let Some(facts) = facts else {
            let missing = BrokerError::NoTopic { backend: name.into(), topic: wish.name.clone(), partitions: wish.partitions };
            let why = made.as_ref().err().map(|error| format!(" (making it failed: {error})"));
            return Err(format!("{missing}{}", why.unwrap_or_default()));
        };
        if facts.max_message_bytes.is_none() {
            let (topic, wanted) = (&wish.name, wish.max_message_bytes);
            tracing::warn!(
                "whether topic {topic} on {name} takes messages of {wanted} bytes is not known: our user may not see its settings"
            );
        }
        if let Some(most) = facts.max_message_bytes.filter(|most| *most < wish.max_message_bytes) {
            let (topic, wanted) = (&wish.name, wish.max_message_bytes);
            return Err(format!("topic {topic} on {name} takes messages of {most} bytes, and the document says {wanted}: raise it there"));
        }
    }
    // The rest is for the clients that it asks with, to end.
    let allowed = timeout(RIGHTS_WITHIN, broker.allows(&needs.uses, RIGHTS_WITHIN * 4 / 5)).await.map_err(late)?;
    allowed.map_err(|error| advised(&error)).and(hidden)?;
    let topics: Vec<String> = wishes.iter().map(|wish| wish.name.clone()).collect();
    broker.warm_up(&topics, ANSWER_WITHIN).await.map_err(|error| advised(&error))
}

/// What is wrong, and where to look.
fn advised(error: &BrokerError) -> String {
    match error {
        BrokerError::Unreachable { .. } => format!("{error}; {REACH}"),
        BrokerError::Refused { .. } => format!("{error}; {LOGIN}"),
        _ => error.to_string(),
    }
}
