package main

func consumer() *dashboard {
	return newDashboard(uidConsumer, "Broker / Consumer",
		"One topic and one queue, from the stream to the end of the handler. Select them above.",
		"now-1h", variables("micro_broker_handled_total", false),
		consumerNow(), consumerBacklog(), consumerHandling(), consumerReplicas(), consumerFetching(),
		consumerRetries(), consumerFetchFailures())
}

// queueRate is the rate of a counter, per topic and queue.
func queueRate(counter string) string { return sum(perQueue, rate(counter, ofSubscription)) }

func consumerNow() row {
	return section("Now",
		stat("Handled",
			"Deliveries handled per second, whatever their outcome. If it is zero while messages are pending, no handler runs, or one hangs: see In flight.",
			"mps", query(handled(""), "handled")).size(4, 4),
		stat("Failed deliveries",
			"Share of deliveries whose handler returned an error or panicked. If it exceeds a few percent, open a trace from the duration chart: its process span has the error.",
			"percentunit", query(ratio(failures(""), handled("")), "failed")).size(4, 4).
			thresholds(failureLevels()...),
		stat("Pending",
			"Messages in the stream that have not been delivered yet. Updated with every delivery, and every 15 s when there are none. If it grows, see its trend.",
			"short", query(sum("", pending("job, topic, queue")), "pending")).size(4, 4),
		stat("Delivery lag p95",
			"95 % of messages wait in the stream for at most this long until their handler starts. If it is high, the queue is behind: see Pending.",
			"s", query(withoutNaN(quantile(.95, "", "delivery_lag_seconds", ofSubscription)), "p95")).size(4, 4).
			thresholds(lagLevels()...),
		stat("Pause",
			"The longest current pause between failed fetches; 0 while all is well. If it is not 0, fetches fail: see Fetch errors for the reason.",
			"s", query(aggregate("max", "", metric("backoff_seconds", ofSubscription)), "pause")).size(4, 4).
			thresholds(above(0, "green"), above(.001, "orange"), above(10, "red")),
		stat("Subscriptions",
			"Active subscriptions: one for each replica. If there are fewer, a Subscribe has failed. go-micro logs the error and tries again after 30 s.",
			"short", query(sum("", metric("active_subscriptions", ofSubscription)), "subscriptions")).size(4, 4),
	)
}

func consumerBacklog() row {
	byQueue := labels(perQueue)
	return section("Backlog",
		timeseries("Pending",
			"Messages in the stream that have not been delivered yet. All replicas of a queue report the same number, so the largest is shown. A rise during a burst is normal. If it does not come down again, the queue needs more replicas, a higher WithConcurrency, or faster handlers.",
			"short", query(pending(perQueue), byQueue)).size(8, 8),
		timeseries("Trend of pending",
			"How fast pending grows, in messages per second; below zero it shrinks. If it stays above zero, more is published than handled. While it shrinks, pending divided by this rate is the time until the backlog is gone.",
			"mps", query(aggregate("max", perQueue, "deriv("+metric("pending", ofSubscription)+"[$__rate_interval])"), byQueue)).size(8, 8).freeMin(),
		timeseries("Unsettled",
			"Messages that were delivered and not settled, and those of them that failed and wait for their retry, when the server was last asked: about every 15 s while nothing new comes. At the bound, MaxAckPending, the server delivers nothing new. If retries are most of it, raise MaxAckPending, retry sooner, or set MaxDeliver with WithDeadLetter.",
			"short",
			query(aggregate("max", perQueue, metric("ack_pending", ofSubscription)), "unsettled "+byQueue),
			query(sum(perQueue, metric("retries", ofSubscription)), "retries "+byQueue),
			query(aggregate("max", perQueue, metric("max_ack_pending", ofSubscription))+" > 0", "bound "+byQueue)).size(8, 8).
			limitLine("^bound"),
		timeseries("In flight",
			"Handlers that are running, over all replicas, and how many may run as a dashed line: replicas times concurrency. If it is always at the limit, the handlers are the bottleneck. If it is above zero while nothing is handled, a handler hangs.",
			"short",
			query(sum(perQueue, metric("in_flight", ofSubscription)), byQueue),
			query(sum(perQueue, metric("concurrency", ofSubscription)), "limit "+byQueue)).size(12, 8).stepped().
			limitLine("^limit"),
		timeseries("Longest running handler",
			"How long the handler that has run longest is running. If it rises by a second every second, that handler hangs: the live page of the process shows its message, and a goroutine dump where it waits.",
			"s", query(aggregate("max", "topic, queue, instance", metric("oldest_in_flight_seconds", ofSubscription)), byQueue+" {{instance}}")).size(12, 8),
	)
}

func consumerHandling() row {
	byQueue := labels(perQueue)
	notStacked := object{"id": "custom.stacking", "value": object{"mode": "none", "group": "A"}}
	notFilled := object{"id": "custom.fillOpacity", "value": 0}
	thick := object{"id": "custom.lineWidth", "value": 3}
	return section("Handling",
		timeseries("Outcomes",
			"Deliveries per second by how they were settled: ack is done, nak is delivered again, term is not, and none was left unsettled by the handler. The line shows panics, which are also counted as nak or term. If there are many naks, a trace has the error. Panics are bugs: the log has the stack.",
			"mps",
			query(sum("result", rate("handled_total", ofSubscription)), "{{result}}"),
			query(sum("", rate("handler_panics_total", ofSubscription)), "panic")).size(12, 9).stacked().
			seriesColor("ack", "green").seriesColor("nak", "orange").seriesColor("term", "red").seriesColor("none", "blue").
			seriesColor("panic", "purple", notStacked, notFilled, thick),
		timeseries("Failures",
			"Deliveries per second whose handler returned an error, and those whose handler panicked. Of the errors, those that asked for RetryAfter are deferred, and those that asked for Discard are discarded. In subscribers of go-micro's server, panics count as errors unless wrapper.Subscriber is used, because go-micro recovers them itself. If errors persist for the same few messages, these can never succeed: see Redeliveries.",
			"cps",
			query(queueRate("handler_errors_total"), "errors "+byQueue),
			query(queueRate("deferred_total"), "deferred "+byQueue),
			query(queueRate("discarded_total"), "discarded "+byQueue),
			query(queueRate("handler_panics_total"), "panics "+byQueue)).size(12, 9),
		timeseries("Handler duration",
			"How long handlers take, including those that fail; half of them take at most p50. Dots are traces: click one to open it. If p99 is far above p50, a few messages are different: open their dots. If all lines rise, a dependency is slow.",
			"s", quantiles("handler_duration_seconds", ofSubscription, perQueue)...).size(12, 9),
		heatmap("Handler duration, all",
			"Handlers per second by duration; darker is more. Two bands mean two kinds of work, or calls that time out: the upper band is then at the length of the timeout.",
			"s", query(sum("le", rate("handler_duration_seconds_bucket", ofSubscription)), "{{le}}").withExemplars()).size(12, 9),
		timeseries("Delivery lag",
			"Time from when the stream stored a message until its handler started, measured by two clocks. Only first deliveries count. It rises with pending. If it is high although little is pending, handlers are slow and batches are large, so messages wait behind each other: lower WithBatchSize.",
			"s", quantiles("delivery_lag_seconds", ofSubscription, perQueue)...).size(12, 8),
		timeseries("End to end",
			"Time from when the stream stored a message until it was finished, with all its retries. If it is far above the delivery lag plus the handler's duration, messages need several tries: see Redeliveries.",
			"s", quantiles("end_to_end_seconds", ofSubscription, perQueue)...).size(12, 8),
	)
}

// perReplica are the labels that identify a process.
const perReplica = "job, instance"

func consumerReplicas() row {
	replica := "{{instance}}"
	p95 := quantile(.95, perReplica, "handler_duration_seconds", ofSubscription)
	return section("By replica",
		table("Replicas",
			"One row per process. Replicas share the messages of a queue, so they should look alike. If one fails much more, or handles much less, than the others, look at its log and at the machine that it runs on. Active is how many of its subscriptions the server delivers to: with SingleActive one replica has them, and where it is 0 the process stands by.",
			[]key{{label: "job"}, {label: "instance"}},
			column{name: "Failed", unit: "percentunit", expr: ratio(failures(perReplica), handled(perReplica)), levels: failureLevels()},
			column{name: "Handled", unit: "mps", expr: handled(perReplica), bar: true},
			column{name: "Handling p95", unit: "s", expr: withoutNaN(p95)},
			column{name: "In flight", unit: "short", expr: sum(perReplica, metric("in_flight", ofSubscription))},
			column{name: "Pause", unit: "s", expr: aggregate("max", perReplica, metric("backoff_seconds", ofSubscription)), levels: levels(above(0, "green"), above(.001, "orange"), above(10, "red"))},
			column{name: "Subscriptions", unit: "short", expr: sum(perReplica, metric("active_subscriptions", ofSubscription))},
			column{name: "Active", unit: "short", expr: sum(perReplica, metric("subscription_active", ofSubscription))},
		).size(gridWidth, 6),
		timeseries("Handling rate by replica",
			"Deliveries handled per second, by process. A line that falls to zero while the others go on is a process that hangs or has lost its connection. If one line carries everything, the others have no subscription.",
			"mps", query(handled(perReplica), replica)).size(8, 8),
		timeseries("Failed deliveries by replica",
			"Share of deliveries whose handler returned an error or panicked, by process. If one line is high, that process is at fault: an old version, a wrong setting, a dependency that it cannot reach. If all are, the messages or a dependency are.",
			"percentunit", query(ratio(failures(perReplica), handled(perReplica)), replica)).size(8, 8),
		timeseries("Handler duration by replica, p95",
			"95 % of handlers of the process take at most this long. If one line is high, that process is slow: too little CPU, or a dependency that is far away. If it ends, the process handles nothing.",
			"s", query(p95, replica)).size(8, 8),
	)
}

func consumerFetching() row {
	byQueue := labels(perQueue)
	return section("Fetching",
		timeseries("Fetches",
			"Fetches per second that returned messages. If there are as many fetches as messages, every batch holds a single message and costs a round trip.",
			"cps", query(queueRate("fetches_total"), byQueue)).size(8, 7),
		timeseries("Batch size",
			"Messages per fetch, over fetches that returned any. By default it adapts to the speed of the handlers: 10, and up to 900 when there is a backlog. If pending grows under a fixed WithBatchSize and the handlers are fast, raise it.",
			"short", query(ratio(queueRate("fetched_total"), queueRate("fetches_total")), byQueue)).size(8, 7),
		timeseries("Stuck keys",
			"Subscriptions with OrderBy that fetch no more, because messages of stuck keys are all that they may have in hand. It goes on when one of these keys does: look for failing or slow handlers in the log.",
			"short", query(sum(perQueue, metric("order_full", ofSubscription)), byQueue)).size(8, 7).stepped(),
		timeseries("In hand",
			"Messages that a process has fetched and does not handle yet. A batch is normal. If it stays high while pending grows, handlers are slow: other replicas would handle these messages sooner with a smaller WithBatchSize.",
			"short", query(sum("topic, queue, instance", metric("in_hand", ofSubscription)), byQueue+" {{instance}}")).size(8, 7),
		timeseries("Bytes fetched",
			"Bytes fetched per second, headers included. If it rises while the rate of messages does not, messages have become larger: see WithFetchBytes.",
			"Bps", query(queueRate("fetched_bytes_total"), byQueue)).size(8, 7),
	)
}

func consumerRetries() row {
	byQueue := labels(perQueue)
	return collapsed("Retries and lost causes",
		timeseries("Redeliveries",
			"Deliveries per second that were not the first of their message. After failures and snoozes they are expected. Without failures, messages come back after AckWait because a replica died or acknowledgements were lost: see Not handled.",
			"mps",
			query(queueRate("redelivered_total"), byQueue),
			query(queueRate("late_deliveries_total"), "fifth and later "+byQueue),
			query(queueRate("snoozed_total"), "snoozed "+byQueue)).size(12, 8),
		timeseries("Share of redeliveries",
			"Redeliveries as a share of all deliveries. Near 1, almost all deliveries are of messages that fail again and again: set MaxDeliver and WithDeadLetter, or discard what can never succeed.",
			"percentunit", query(ratio(queueRate("redelivered_total"), handled(perQueue)), byQueue)).size(12, 8),
		timeseries("Dead letters and exhausted",
			"Messages per minute that were given up. Dead letters were published to the dead-letter topic. Refused ones could not be published there; they are kept, and most are tried again. Exhausted ones are stuck in the stream without a dead letter. Read the header Micro-Dead-Letter-Reason, fix the cause, and publish the message again.",
			"cpm",
			query(queueRate("dead_lettered_total")+" * 60", "dead letters "+byQueue),
			query(queueRate("dead_letter_errors_total")+" * 60", "refused "+byQueue),
			query(queueRate("exhausted_total")+" * 60", "exhausted "+byQueue)).size(12, 8),
		timeseries("Not handled",
			"Fetched messages per second that were not handled, and acknowledgements that failed. Skipped: the ack deadline passed while the message waited, or it was a second delivery of a message that was already handled. Markers: the stream's notes that the last message of a subject has expired. Returned: given back because the subscription ended. All but second deliveries and markers are delivered again. If messages are skipped all the time, lower WithBatchSize. If acknowledgements fail, check the connection.",
			"mps",
			query(sum("topic, queue, reason", rate("skipped_total", ofSubscription)), "skipped {{reason}} "+byQueue),
			query(queueRate("markers_total"), "markers "+byQueue),
			query(queueRate("returned_total"), "returned "+byQueue),
			query(sum("topic, queue, result", rate("settle_errors_total", ofSubscription)), "{{result}} failed "+byQueue)).size(12, 8),
	)
}

func consumerFetchFailures() row {
	byQueue := labels(perQueue)
	return collapsed("Failed fetches",
		timeseries("Backoff",
			"The pause after failed fetches, up to 30 s and 0 while all is well, and how many pauses began per minute. If it is not 0 for minutes, nothing is consumed there: see Fetch errors for the reason.",
			"s",
			query(aggregate("max", "instance, topic, queue", metric("backoff_seconds", ofSubscription)), "pause {{instance}} "+byQueue),
			query(queueRate("backoffs_total")+" * 60", "pauses per minute "+byQueue)).size(12, 8).stepped().
			rightAxis("^pauses", "cpm"),
		timeseries("Fetch errors",
			"Failed fetches per second, by reason. An idle poll is not a failure. disconnected and timeout point to the connection. consumer_deleted and stream_not_found mean that somebody deleted it on the server; the broker recreates its own consumers and streams.",
			"cps", query(sum("reason", rate("fetch_errors_total", ofSubscription)), "{{reason}}")).size(12, 8),
	)
}
