package main

func consumer() *dashboard {
	line := object{"id": "custom.stacking", "value": object{"mode": "none", "group": "A"}}
	noFill := object{"id": "custom.fillOpacity", "value": 0}
	thick := object{"id": "custom.lineWidth", "value": 3}
	byQueue := labels(perQueue)
	counter := func(name string) string { return sum(perQueue, rate(name, ofSubscription)) }

	return newDashboard(uidConsumer, "Broker / Consumer",
		"One topic and one queue from the stream to the end of the handler. Choose them above.",
		"now-1h", variables("micro_broker_handled_total", false),

		section("Now",
			stat("Handled", "Deliveries that handlers have ended, per second. Zero while messages are pending: no handler runs, or one hangs; see In flight.",
				"mps", query(handled(""), "handled")).size(4, 4),
			stat("Failed deliveries", "Share of deliveries whose handler returned an error or panicked. Above a few percent: open a trace from the duration chart, its process span has the error.",
				"percentunit", query(ratio(failures(""), handled("")), "failed")).size(4, 4).
				thresholds(at(0, "green"), at(.01, "orange"), at(.05, "red")),
			stat("Pending", "Messages in the stream that no subscriber has got yet. Refreshed with every delivery, and every 15 s without any. Growing: see its trend.",
				"short", query(sum("", pending("job, topic, queue")), "pending")).size(4, 4),
			stat("Delivery lag p95", "95 of 100 messages wait at most this long in the stream until their handler starts. High: the queue is behind, see Pending.",
				"s", query(number(quantile(.95, "", "delivery_lag_seconds", ofSubscription)), "p95")).size(4, 4).
				thresholds(at(0, "green"), at(10, "orange"), at(300, "red")),
			stat("Pause", "The longest pause between failed fetches now; 0 while healthy. More than that: fetches fail, see Fetch errors for the reason.",
				"s", query(aggregate("max", "", metric("backoff_seconds", ofSubscription)), "pause")).size(4, 4).
				thresholds(at(0, "green"), at(.001, "orange"), at(10, "red")),
			stat("Subscriptions", "Active subscriptions: one for each replica. Fewer than replicas: a Subscribe has failed; go-micro logs it and tries again after 30 s.",
				"short", query(sum("", metric("active_subscriptions", ofSubscription)), "subscriptions")).size(4, 4),
		),

		section("Backlog",
			timeseries("Pending", "Messages in the stream that no subscriber has got yet. Replicas of a queue report the same number: the largest is shown. A rise during a burst is what a queue is for; one that does not come down needs more replicas, WithConcurrency, or quicker handlers.",
				"short", query(pending(perQueue), byQueue)).size(8, 8),
			timeseries("Trend of pending", "Messages per second by which pending grows, or shrinks below zero. Above zero for long: more comes in than is handled; divide pending by a negative value to know how long the rest takes.",
				"mps", query(aggregate("max", perQueue, "deriv("+metric("pending", ofSubscription)+"[$__rate_interval])"), byQueue)).size(8, 8).anySign(),
			timeseries("In flight", "Handlers that run now, all replicas together. At its limit, replicas times concurrency, all the time: handlers are what limits. Above zero while nothing is handled: a handler hangs.",
				"short", query(sum(perQueue, metric("in_flight", ofSubscription)), byQueue)).size(8, 8).steps(),
		),

		section("Handling",
			timeseries("Outcomes", "Deliveries per second by how they were settled: ack is done, nak comes back, term never does, none was left to the handler. The line shows panics, which are also counted as nak or term. Much nak: see the error in a trace. Panics: a bug, the log has the stack.",
				"mps",
				query(sum("result", rate("handled_total", ofSubscription)), "{{result}}"),
				query(sum("", rate("handler_panics_total", ofSubscription)), "panic")).size(12, 9).stacked().
				colored("ack", "green").colored("nak", "orange").colored("term", "red").colored("none", "blue").
				colored("panic", "purple", line, noFill, thick),
			timeseries("Failures", "Deliveries per second whose handler returned an error, and those whose handler panicked. In go-micro's server subscribers panics are counted as errors without wrapper.Subscriber: go-micro recovers them itself. Lasting errors with few distinct messages: they can never succeed, see Redeliveries.",
				"cps",
				query(counter("handler_errors_total"), "errors "+byQueue),
				query(counter("handler_panics_total"), "panics "+byQueue)).size(12, 9),
			timeseries("Handler duration", "How long handlers take, failures included: half of them at most p50. Dots are traces; a click opens one. p99 far above p50: a few messages are different, open their dots. All up: a dependency is slow.",
				"s", quantiles("handler_duration_seconds", ofSubscription, perQueue)...).size(12, 9),
			heatmap("Handler duration, all", "Handlers per second by duration; darker is more. Two bands are two kinds of work, or calls that hit a timeout: then the upper band is the timeout's length.",
				"s", query(sum("le", rate("handler_duration_seconds_bucket", ofSubscription)), "{{le}}").withExemplars()).size(12, 9),
			timeseries("Delivery lag", "From when the stream stored a message until its handler started; first deliveries only, by two clocks. Rises with pending. High without pending: handlers are slow and batches large, so messages wait behind each other: WithBatchSize.",
				"s", quantiles("delivery_lag_seconds", ofSubscription, perQueue)...).size(24, 8),
		),

		section("Retries and lost causes",
			timeseries("Redeliveries", "Deliveries per second that were not the first of their message. After failures this is as it should be. Without failures: messages come back after AckWait, because a replica died, or acknowledgements do not get through; see Not handled.",
				"mps", query(counter("redelivered_total"), byQueue)).size(8, 8),
			timeseries("Share of redeliveries", "Redeliveries by deliveries. Near 1: almost only messages that fail again and again; set MaxDeliver and WithDeadLetter, or discard what can never succeed.",
				"percentunit", query(ratio(counter("redelivered_total"), handled(perQueue)), byQueue)).size(8, 8),
			timeseries("Dead letters and exhausted", "Messages per minute that were given up: published to the dead-letter topic; refused there and kept, most to be tried again; or exhausted, which means stuck in the stream without a dead letter. Read Micro-Dead-Letter-Reason, repair, publish again.",
				"cpm",
				query(counter("dead_lettered_total")+" * 60", "dead letters "+byQueue),
				query(counter("dead_letter_errors_total")+" * 60", "refused "+byQueue),
				query(counter("exhausted_total")+" * 60", "exhausted "+byQueue)).size(8, 8),
			timeseries("Not handled", "Fetched messages per second that were skipped, as their ack deadline had passed while they waited or as they were second deliveries of handled ones, or returned, as the subscription ended; and acknowledgements that did not get through. All but second deliveries come back. Skipped all the time: smaller WithBatchSize. Failed acks: see the connection.",
				"mps",
				query(counter("skipped_total"), "skipped "+byQueue),
				query(counter("returned_total"), "returned "+byQueue),
				query(sum("topic, queue, result", rate("settle_errors_total", ofSubscription)), "{{result}} failed "+byQueue)).size(24, 8),
		),

		section("Fetching",
			timeseries("Fetches", "Fetches per second that brought messages. As many as messages: batches of one, which costs a round trip each.",
				"cps", query(counter("fetches_total"), byQueue)).size(8, 8),
			timeseries("Batch size", "Messages per fetch that brought any. By default it adapts to how quick the handlers are: 10, with a backlog up to 900. At a fixed WithBatchSize with pending growing: raise it, if handlers are quick.",
				"short", query(ratio(counter("fetched_total"), counter("fetches_total")), byQueue)).size(8, 8),
			timeseries("Backoff", "The pause after failed fetches, up to 30 s; 0 while healthy; and how many pauses began per minute. Not 0 for minutes: nothing is consumed there; see Fetch errors for the reason.",
				"s",
				query(aggregate("max", "instance, topic, queue", metric("backoff_seconds", ofSubscription)), "pause {{instance}} "+byQueue),
				query(counter("backoffs_total")+" * 60", "pauses per minute "+byQueue)).size(8, 8).steps().
				unitOf("^pauses", "cpm"),
			timeseries("Fetch errors", "Failed fetches per second by reason; an idle poll is none. disconnected and timeout: the connection. consumer_deleted, stream_not_found: somebody has removed it on the server; the broker makes its own again.",
				"cps", query(sum("reason", rate("fetch_errors_total", ofSubscription)), "{{reason}}")).size(24, 8),
		),
	)
}
