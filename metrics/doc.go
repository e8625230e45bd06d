// Package metrics observes a broker with Prometheus. It is a hook like any
// other: it uses nothing that a third party could not use.
//
//	b := jsbroker.NewBroker(
//		broker.Addrs(url),
//		jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))),
//	)
//
// # Metrics
//
// Publishing; the series of a topic appear with its first publish:
//
//	micro_broker_published_total{topic}                      counter    acknowledged by the stream, duplicates included
//	micro_broker_publish_errors_total{topic,reason}          counter    publishes that failed
//	micro_broker_publish_duration_seconds{topic}             histogram  from the call of Publish until the outcome is known, failures included
//	micro_broker_duplicates_total{topic}                     counter    the stream already had the message id
//
// Subscribing; only the last one has no series before its first failure:
//
//	micro_broker_active_subscriptions{topic,queue}           gauge      subscriptions
//	micro_broker_subscribe_errors_total{topic,reason}        counter    Subscribe returned an error
//
// Fetching:
//
//	micro_broker_fetched_total{topic,queue}                  counter    messages
//	micro_broker_fetches_total{topic,queue}                  counter    fetches that brought messages; for the batch size
//	micro_broker_fetch_errors_total{topic,queue,reason}      counter    failed fetches; an idle poll is none
//	micro_broker_backoffs_total{topic,queue}                 counter    pauses after a failed fetch: the sum of the errors
//	micro_broker_backoff_seconds{topic,queue}                gauge      the current pause; 0 while healthy
//	micro_broker_pending{topic,queue}                        gauge      messages left in the stream for this consumer
//
// Handling, once per delivery:
//
//	micro_broker_in_flight{topic,queue}                      gauge      handlers that run now
//	micro_broker_handled_total{topic,queue,result}           counter    by result: ack, nak, term, none
//	micro_broker_handler_errors_total{topic,queue}           counter    the handler returned an error; panics are not among them
//	micro_broker_handler_panics_total{topic,queue}           counter    the handler panicked or ended its goroutine
//	micro_broker_handler_duration_seconds{topic,queue}       histogram  of the handler alone
//	micro_broker_delivery_lag_seconds{topic,queue}           histogram  stored in the stream until the handler starts; first deliveries only
//	micro_broker_redelivered_total{topic,queue}              counter    deliveries that were not the first of their message
//
// The fate of messages:
//
//	micro_broker_dead_lettered_total{topic,queue}            counter    published to the dead-letter topic
//	micro_broker_dead_letter_errors_total{topic,queue}       counter    could not be published there, and kept
//	micro_broker_exhausted_total{topic,queue}                counter    the last permitted delivery failed: stuck in the stream
//	micro_broker_skipped_total{topic,queue}                  counter    fetched, not handled: too late, or a second delivery
//	micro_broker_returned_total{topic,queue}                 counter    fetched, but given back when the subscription ended
//	micro_broker_settle_errors_total{topic,queue,result}     counter    an ack, nak or term that did not get through
//
// The connection:
//
//	micro_broker_connected{broker}                           gauge      1 or 0; gone a minute after Disconnect
//	micro_broker_reconnects_total{broker}                    counter    connections restored
//
// # Labels
//
// topic and queue of a subscription are what was passed to Subscribe: a
// wildcard subscription has one series, whatever the subjects it receives.
// queue is empty without broker.Queue. For publishing, topic is the topic
// published to, until there are too many of them, see [WithMaxTopics], or it is
// not a valid topic: such are counted under "other". [WithTopicLabel] keeps
// generated subjects apart by kind.
//
// reason is from the closed set of [jsbroker.Reason]; nothing that an error
// says in its own words is ever a label.
//
// broker is the client name, see [jsbroker.WithClientName]. A second broker of
// that name in the registry is "name-2". It stays with a broker value through
// Disconnect and Connect.
//
// # When series exist
//
// All series of a subscription are there, at zero, when Subscribe returns, so
// that rate() sees the first failure. Of the reasons, those that a correctly
// configured service meets in operation are: nine for fetching, six for
// publishing; others appear when they happen. When the last subscription of a
// topic and queue ends, its gauges (active_subscriptions, in_flight, pending,
// backoff_seconds) go, and its counters and histograms stay.
//
// Subscriptions that share topic and queue, in one broker or in several on the
// same registry, share the series: in_flight adds up, backoff_seconds is the
// longest, pending what was learned last. Brokers of different clusters are
// better told apart: [prometheus.WrapRegistererWith].
//
// # Histograms
//
// The histograms have classic and native buckets; which of them a scrape sees
// is for the scraper to negotiate. When the context of an observation has a
// sampled OpenTelemetry span, the observation carries its trace id as an
// exemplar, trace_id; each bucket takes ten a second at most. Exemplars are part of the OpenMetrics and protobuf
// formats only: serve the registry with promhttp.HandlerOpts.EnableOpenMetrics.
//
// # Cost
//
// A delivery takes some 0.13 µs, most of it the two observations, and allocates
// nothing but for the exemplars.
package metrics
