// Package metrics counts and measures what a broker does, for Prometheus.
//
// Install it with [jsbroker.WithHooks]. The service then serves the registry, for
// example with promhttp.HandlerFor:
//
//	b := jsbroker.NewBroker(
//		broker.Addrs(url),
//		jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))),
//	)
//
// If the metrics cannot be registered, Connect returns the error.
//
// # Metrics
//
// Publishing. The series of a topic exist from its first publish:
//
//	micro_broker_published_total{topic}                      counter    messages that the stream acknowledged, duplicates included
//	micro_broker_publish_errors_total{topic,reason}          counter    publishes that failed
//	micro_broker_publish_duration_seconds{topic}             histogram  from the call of Publish until the outcome is known, failures included
//	micro_broker_published_bytes_total{topic}                counter    bytes of the bodies of published messages
//	micro_broker_duplicates_total{topic}                     counter    messages whose id the stream already had
//	micro_broker_scheduled_total{topic}                      counter    messages published to be delivered later; appears with the first one
//
// Subscribing. The series of subscribe_errors_total exist from the first error:
//
//	micro_broker_active_subscriptions{topic,queue}           gauge      active subscriptions
//	micro_broker_subscription_info{topic,queue,stream,consumer}  gauge  always 1; the consumer that the subscription began with
//	micro_broker_concurrency{topic,queue}                    gauge      how many handlers may run at a time
//	micro_broker_subscribe_errors_total{topic,reason}        counter    calls of Subscribe that returned an error
//
// Fetching:
//
//	micro_broker_fetched_total{topic,queue}                  counter    fetched messages
//	micro_broker_fetched_bytes_total{topic,queue}            counter    bytes fetched, headers included
//	micro_broker_fetches_total{topic,queue}                  counter    fetches that brought messages; the batch size is fetched_total divided by this
//	micro_broker_fetch_errors_total{topic,queue,reason}      counter    failed fetches; a poll that finds no message is no failure
//	micro_broker_in_hand{topic,queue}                        gauge      messages fetched and not being handled now
//	micro_broker_backoffs_total{topic,queue}                 counter    pauses after a failed fetch; equals the sum of fetch_errors_total over all reasons
//	micro_broker_backoff_seconds{topic,queue}                gauge      the current pause; 0 while healthy
//	micro_broker_pending{topic,queue}                        gauge      messages in the stream that this consumer has not been given yet
//
// Order, with OrderBy:
//
//	micro_broker_order_full{topic,queue}                     gauge      subscriptions that fetch no more because of stuck keys
//
// Replicas, with SingleActive:
//
//	micro_broker_subscription_active{topic,queue}            gauge      subscriptions that the server delivers to: 0 where the replica stands by
//
// What the server says of the consumer when it is asked, which is about every 15
// seconds while nothing new comes:
//
//	micro_broker_ack_pending{topic,queue}                    gauge      delivered to any subscriber of this consumer, and not settled
//	micro_broker_max_ack_pending{topic,queue}                gauge      how large that may become before nothing new is delivered; 0: no bound
//	micro_broker_retries{topic,queue}                        gauge      failed here, and waiting for their retry: they are part of ack_pending
//
// Handling, once per delivery:
//
//	micro_broker_in_flight{topic,queue}                      gauge      running handlers
//	micro_broker_oldest_in_flight_seconds{topic,queue}       gauge      for how long the handler runs that has started first; 0 while none runs
//	micro_broker_handled_total{topic,queue,result}           counter    handled deliveries; result is ack, nak, term or none
//	micro_broker_snoozed_total{topic,queue}                  counter    those of handled_total whose handler returned Snooze; result is nak
//	micro_broker_handler_errors_total{topic,queue}           counter    handlers that returned an error, without panics and snoozes
//	micro_broker_deferred_total{topic,queue}                 counter    those of handler_errors_total that were RetryAfter: planned
//	micro_broker_discarded_total{topic,queue}                counter    those of handler_errors_total that were Discard
//	micro_broker_late_deliveries_total{topic,queue}          counter    those of handled_total that were the fifth delivery of their message or a later one, snoozes aside
//	micro_broker_handler_panics_total{topic,queue}           counter    handlers that panicked or ended their goroutine
//	micro_broker_handler_duration_seconds{topic,queue}       histogram  duration of the handler alone, failures included
//	micro_broker_delivery_lag_seconds{topic,queue}           histogram  from storing in the stream until the handler starts; first deliveries only
//	micro_broker_end_to_end_seconds{topic,queue}             histogram  from storing in the stream until the message is acked or terminated, retries included
//	micro_broker_redelivered_total{topic,queue}              counter    deliveries that were not the first of their message
//
// What else becomes of a message:
//
//	micro_broker_dead_lettered_total{topic,queue}            counter    published to the dead-letter topic
//	micro_broker_dead_letter_errors_total{topic,queue}       counter    could not be published to the dead-letter topic, and kept
//	micro_broker_exhausted_total{topic,queue}                counter    the last permitted delivery failed; the message stays in the stream
//	micro_broker_skipped_total{topic,queue,reason}           counter    fetched but not handled: expired, a second delivery of what is running, handled or discarded, or (with OrderBy) spent: retries made here have used up MaxDeliver
//	micro_broker_markers_total{topic,queue}                  counter    delete markers of the stream: acknowledged, not handled, and not in skipped_total
//	micro_broker_returned_total{topic,queue}                 counter    fetched but given back, at the end or behind handlers that hang
//	micro_broker_settle_errors_total{topic,queue,result}     counter    an ack, nak or term that could not be sent or was not confirmed
//
// The connection:
//
//	micro_broker_connected{broker}                           gauge      1 while connected, else 0; ends half a minute after Disconnect
//	micro_broker_async_window_used{broker}                   gauge      messages of Async that wait for their answers, or for their done, whichever are more
//	micro_broker_async_window_limit{broker}                  gauge      how large that may become before Publish waits
//	micro_broker_reconnects_total{broker}                    counter    connections restored after a loss
//
// What the program is built from:
//
//	micro_broker_build_info{version,goversion}               gauge      always 1; the version of this module and of Go
//
// What only the server knows. These metrics exist with [NewServer], which asks for them:
//
//	micro_broker_server_up{}                                 gauge      1 if all of the latest questions were answered, else 0
//	micro_broker_server_errors_total{reason}                 counter    questions that were not answered
//	micro_broker_server_truncated{}                          gauge      1 if there are more streams or consumers than [ServerLimits] permits
//	micro_broker_stream_info{stream,retention,discard}       gauge      always 1
//	micro_broker_stream_messages{stream}                     gauge      messages in the stream
//	micro_broker_stream_bytes{stream}                        gauge      bytes in the stream
//	micro_broker_stream_max_messages{stream}                 gauge      the limit of messages; missing without one
//	micro_broker_stream_max_bytes{stream}                    gauge      the limit of bytes; missing without one
//	micro_broker_stream_oldest_message_timestamp_seconds{stream}  gauge  when the oldest message was stored; missing while the stream is empty
//	micro_broker_stream_consumers{stream}                    gauge      consumers of the stream
//	micro_broker_stream_dead_letters{stream,topic}           gauge      messages on the broker's dead-letter topic
//	micro_broker_consumer_pending{stream,consumer,topic,queue}          gauge    messages not yet delivered to the consumer
//	micro_broker_consumer_ack_pending{stream,consumer,topic,queue}      gauge    delivered and not settled
//	micro_broker_consumer_max_ack_pending{stream,consumer,topic,queue}  gauge    how large that may become; missing without a bound
//	micro_broker_consumer_waiting{stream,consumer,topic,queue}          gauge    requests of subscribers that wait for messages; missing for push consumers
//	micro_broker_consumer_redelivered{stream,consumer,topic,queue}      gauge    delivered more than once and not settled
//	micro_broker_consumer_delivered_total{stream,consumer,topic,queue}  counter  deliveries to any subscriber
//	micro_broker_consumer_paused{stream,consumer,topic,queue}           gauge    1 while the consumer is paused, else 0
//	micro_broker_consumer_paused_until_timestamp_seconds{stream,consumer,topic,queue}  gauge  when the pause ends; missing without one
//	micro_broker_consumer_created_timestamp_seconds{stream,consumer,topic,queue}       gauge  when the consumer was made
//
// # Labels
//
// topic and queue of a subscription are the arguments of Subscribe. A wildcard
// subscription therefore has one series for all its subjects. queue is empty
// without broker.Queue.
//
// topic of a publish is the published topic. Invalid topics, and all topics beyond
// a limit, are counted under "other"; see [WithMaxTopics]. For generated subjects,
// [WithTopicLabel] can make one label for each kind.
//
// reason is a value of [jsbroker.Reason], which is a closed set. The text of an
// error is never a label.
//
// topic and queue of a consumer are its filter and the queue that the broker has named
// it after, so that they are those of the subscription. A consumer without a filter has
// no topic, and one of a subscriber without a queue no queue.
//
// broker is the client name; see [jsbroker.WithClientName]. A second broker with the
// same name gets "name-2". A broker value keeps its label through Disconnect and
// Connect, unless another broker of that name connects in between.
//
// # When series exist
//
// All series of a subscription exist, at zero, when Subscribe returns, so that
// rate() sees the first failure. This includes the reasons that a correctly
// configured service can meet in operation: nine for fetching and six for
// publishing. Series for other reasons start with the first such failure.
//
// When the last subscription of a topic and queue ends, its gauges
// (active_subscriptions, subscription_info, concurrency, in_flight, in_hand,
// oldest_in_flight_seconds, pending, backoff_seconds, ack_pending, max_ack_pending,
// retries) end too. Its counters
// and histograms stay, until 1000 other topics and queues have ended since. So a
// service that restarts a subscription continues its counters, and one that
// subscribes to ever new topics does not add series for ever.
//
// Subscriptions with the same topic and queue share their series, in one broker or
// in several on one registry. in_flight is then the sum, backoff_seconds the longest
// pause, and pending the latest value. For brokers on different clusters, use
// [prometheus.WrapRegistererWith] to give each its own label.
//
// # Histograms
//
// The histograms have classic and native buckets, and the scraper negotiates which
// of them it gets. [WithDurationBuckets] and [WithFewerBuckets] change the classic ones,
// and [WithNativeHistogramsOnly] leaves them out. What a subscription costs in series is
// in docs/observability.md.
//
// If the context of an observation has a sampled OpenTelemetry span, its trace id
// becomes an exemplar with the label trace_id. A bucket takes at most ten exemplars
// a second. Only the OpenMetrics and protobuf formats carry exemplars: set
// promhttp.HandlerOpts.EnableOpenMetrics.
//
// # Cost
//
// One delivery costs 0.4 to 0.7 µs, most of it for the three histograms, and a publish
// 0.2 to 0.4 µs. With a sampled span, a delivery costs 0.8 to 1.6 µs. This was measured
// with the benchmarks of this package on two cores of a virtual machine that had much
// else to do. Memory is allocated only when an exemplar is taken.
//
// The server is asked only by what [NewServer] returns, and only when it is scraped.
package metrics
