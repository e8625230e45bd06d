package main

func overview() *dashboard {
	const topics = "micro_broker_published_total|micro_broker_handled_total"
	return newDashboard(uidOverview, "Broker / Overview",
		"Do events flow, how long do they take, and what fails? Per topic and queue, over all services. Start here.",
		"now-1h", variables(topics, false),
		overviewNow(), overviewTable(), overviewHandling(), overviewPublishing(),
		overviewReplicas(), overviewFailures())
}

func overviewNow() row {
	return section("Now",
		stat("Published",
			"Messages acknowledged by a stream, per second. If it is zero although the service works, see Publish errors below, and the Publisher dashboard for the reason.",
			"mps", query(sum("", rate("published_total", ofTopic)), "published")).size(3, 4),
		stat("Handled",
			"Deliveries handled per second, whatever their outcome. A message that is delivered twice counts twice. If it is zero while messages are pending, no handler runs: see Pending on the Consumer dashboard.",
			"mps", query(handled(""), "handled")).size(3, 4),
		stat("Failed deliveries",
			"Share of deliveries whose handler returned an error or panicked. The messages are delivered again later, unless they were discarded. If it exceeds a few percent, open the Consumer dashboard for the queue, and a trace for the error.",
			"percentunit", query(ratio(failures(""), handled("")), "failed")).size(4, 4).
			thresholds(failureLevels()...),
		stat("Handling p95",
			"95 % of handlers take at most this long. If it rises, something that the handlers wait for has become slow: a trace shows what.",
			"s", query(withoutNaN(quantile(.95, "", "handler_duration_seconds", ofSubscription)), "p95")).size(3, 4),
		stat("Pending",
			"Messages in the streams that have not been delivered yet, over all queues. A queue with several replicas counts once. If it keeps growing, more is published than handled: the table shows which queue is behind.",
			"short", query(sum("", pending("job, topic, queue")), "pending")).size(3, 4),
		stat("Subscriptions",
			"Active subscriptions of all instances. If there are fewer than usual, a Subscribe has failed, which go-micro only logs: see Subscribe errors on the Publisher dashboard.",
			"short", query(sum("", metric("active_subscriptions", ofSubscription)), "subscriptions")).size(4, 4),
		stat("Connection",
			"Whether every broker is connected to a server. If not, the Publisher dashboard shows which one is disconnected. Check that it can reach its server.",
			"short", query(aggregate("min", "", metric("connected", ofProcess)), "connected")).size(4, 4).
			words(map[string]string{"0": "Disconnected", "1": "Connected"}, map[string]string{"0": "red", "1": "green"}).
			thresholds(above(0, "red"), above(1, "green")),
	)
}

func overviewTable() row {
	return section("Topics and queues",
		table("Topics and queues",
			"One row per topic and queue, over all replicas. A click on the topic opens the Consumer dashboard. Look for red first: failures, messages that wait, and dead letters of the last hour.",
			byTopicAndQueue,
			column{name: "Failed", unit: "percentunit", expr: ratio(failures(perQueue), handled(perQueue)), levels: failureLevels()},
			column{name: "Pending", unit: "short", expr: pending(perQueue), levels: levels(above(0, "green"), above(1000, "orange"), above(100000, "red"))},
			column{name: "Delivery lag p95", unit: "s", expr: withoutNaN(quantile(.95, perQueue, "delivery_lag_seconds", ofSubscription)), levels: lagLevels()},
			column{name: "Dead letters, 1 h", unit: "short", expr: sum(perQueue, increase("dead_lettered_total", ofSubscription, "1h")), levels: levels(above(0, "green"), above(.5, "red")), whole: true},
			column{name: "Handled", unit: "mps", expr: handled(perQueue)},
			column{name: "Handling p95", unit: "s", expr: withoutNaN(quantile(.95, perQueue, "handler_duration_seconds", ofSubscription))},
			column{name: "In flight", unit: "short", expr: sum(perQueue, metric("in_flight", ofSubscription))},
			column{name: "Redelivered", unit: "mps", expr: sum(perQueue, rate("redelivered_total", ofSubscription))},
			column{name: "Subscriptions", unit: "short", expr: sum(perQueue, metric("active_subscriptions", ofSubscription))},
		),
	)
}

func overviewHandling() row {
	return section("Handling, per topic and queue",
		timeseries("Handling rate",
			"Deliveries handled per second. If it stays below the publish rate, pending grows: add replicas or raise WithConcurrency.",
			"mps", query(handled(perQueue), labels(perQueue))).size(12, 8),
		timeseries("Handler duration, p95",
			"95 % of handlers take at most this long. When it approaches AckWait (30 s by default), the broker has to extend the ack deadline. Dots are traces: open one above the line to see where the time went.",
			"s", query(quantile(.95, perQueue, "handler_duration_seconds", ofSubscription), labels(perQueue)).withExemplars()).size(12, 8),
	)
}

func overviewPublishing() row {
	return section("Publishing, per topic",
		timeseries("Publish rate",
			"Messages acknowledged by a stream, per second. If a line ends or drops, the service is down or its publishes fail: compare with Publish errors.",
			"mps", query(sum("topic", rate("published_total", ofTopic)), "{{topic}}")).size(12, 8),
		timeseries("Publish duration, p95",
			"The outcome of 95 % of publishes, failures included, is known within this time. Jumps to several seconds mean that calls wait for a lost connection, or that the stream's disk is slow. Dots are traces.",
			"s", query(quantile(.95, "topic", "publish_duration_seconds", ofTopic), "{{topic}}").withExemplars()).size(12, 8),
	)
}

func overviewReplicas() row {
	return section("By replica",
		timeseries("Handling rate by replica",
			"Deliveries handled per second, by process. Replicas share the work of a queue, so a line far below the others is a process that hangs, has lost its connection, or has no subscription: see Replicas on the Consumer dashboard.",
			"mps", query(handled("job, instance"), "{{job}} {{instance}}")).size(12, 8),
		timeseries("Failed deliveries by replica",
			"Share of deliveries whose handler returned an error or panicked, by process. If one line is high, that process is at fault. If all are, the messages or a dependency are.",
			"percentunit", query(ratio(failures("job, instance"), handled("job, instance")), "{{job}} {{instance}}")).size(12, 8),
		table("Versions",
			"How many processes run which version of this module and of Go. During a deploy there are two rows. If an old one stays, a process was not replaced.",
			[]key{{label: "job"}, {label: "version"}, {label: "goversion"}},
			column{name: "Processes", unit: "short", expr: aggregate("count", "job, version, goversion", metric("build_info", ofProcess))},
		).size(gridWidth, 6),
	)
}

func overviewFailures() row {
	return collapsed("Failures",
		timeseries("Failures",
			"Deliveries per second whose handler returned an error or panicked. A spike that passes was a dependency. If it stays, some messages can never succeed: return Discard for them, or set MaxDeliver and WithDeadLetter.",
			"cps", query(failures(perQueue), labels(perQueue))).size(12, 8),
		timeseries("Publish errors",
			"Publishes that failed, per second. If they go on, events are lost unless the caller retries: the Publisher dashboard shows the reasons.",
			"cps", query(sum("topic", rate("publish_errors_total", ofTopic)), "{{topic}}")).size(12, 8),
	)
}
