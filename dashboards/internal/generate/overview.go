package main

func overview() *dashboard {
	const topics = "micro_broker_published_total|micro_broker_handled_total"
	return newDashboard(uidOverview, "Broker / Overview",
		"Do events flow, how long do they take, and what fails? Per topic and queue, over all services. Start here.",
		"now-1h", variables(topics, false),

		section("Now",
			stat("Published", "Messages that a stream has acknowledged, per second. Zero although the service works: look at Publish errors below, and at the Publisher dashboard for the reason.",
				"mps", query(sum("", rate("published_total", ofTopic)), "published")).size(3, 4),
			stat("Handled", "Deliveries that handlers have ended, per second; a message that is delivered twice counts twice. Zero while messages are pending: no handler runs, see Pending on the Consumer dashboard.",
				"mps", query(handled(""), "handled")).size(3, 4),
			stat("Failed deliveries", "Share of deliveries whose handler returned an error or panicked. They come back later, unless they are discarded. Above a few percent: open the Consumer dashboard for the queue, and a trace of it for the error.",
				"percentunit", query(ratio(failures(""), handled("")), "failed")).size(4, 4).
				thresholds(at(0, "green"), at(.01, "orange"), at(.05, "red")),
			stat("Handling p95", "95 of 100 handlers take at most this long. Rising: what the handlers wait for has become slow; a trace shows what.",
				"s", query(number(quantile(.95, "", "handler_duration_seconds", ofSubscription)), "p95")).size(3, 4),
			stat("Pending", "Messages in the streams that no subscriber has got yet, over all queues. A queue that several replicas share counts once. Growing without end: more is published than handled; see the table for the queue.",
				"short", query(sum("", pending("job, topic, queue")), "pending")).size(3, 4),
			stat("Subscriptions", "Active subscriptions of all instances. Fewer than usual: a Subscribe has failed, which go-micro only logs; see Subscribe errors on the Publisher dashboard.",
				"short", query(sum("", metric("active_subscriptions", ofSubscription)), "subscriptions")).size(4, 4),
			stat("Connection", "Whether every broker is connected to a server now. If not: the Publisher dashboard tells which one is not; check that the server is reachable from there.",
				"short", query(aggregate("min", "", metric("connected", ofProcess)), "connected")).size(4, 4).
				mapped(map[string]string{"0": "Disconnected", "1": "Connected"}, map[string]string{"0": "red", "1": "green"}).
				thresholds(at(0, "red"), at(1, "green")),
		),

		section("Publishing, per topic",
			timeseries("Publish rate", "Messages acknowledged by a stream per second. A line that ends or falls: its service is down, or its publishes fail; compare with Publish errors.",
				"mps", query(sum("topic", rate("published_total", ofTopic)), "{{topic}}")).size(8, 8),
			timeseries("Publish errors", "Publishes that failed, per second. Any lasting value means lost events, unless the caller tries again: the Publisher dashboard has the reasons.",
				"cps", query(sum("topic", rate("publish_errors_total", ofTopic)), "{{topic}}")).size(8, 8),
			timeseries("Publish duration, p95", "95 of 100 publishes take at most this long until the outcome is known, failures included. Steps up to seconds: the connection is away and calls wait for it, or the stream's disk is slow. A dot is a trace.",
				"s", query(quantile(.95, "topic", "publish_duration_seconds", ofTopic), "{{topic}}").withExemplars()).size(8, 8),
		),

		section("Handling, per topic and queue",
			timeseries("Handling rate", "Deliveries handled per second. Below the publish rate for long: pending grows, add replicas or raise WithConcurrency.",
				"mps", query(handled(perQueue), labels(perQueue))).size(8, 8),
			timeseries("Failures", "Deliveries whose handler returned an error or panicked, per second. A spike that ends was a dependency; one that stays is a message that cannot succeed: return Discard for such, or set MaxDeliver and WithDeadLetter.",
				"cps", query(failures(perQueue), labels(perQueue))).size(8, 8),
			timeseries("Handler duration, p95", "95 of 100 handlers take at most this long. When it nears AckWait (30 s unless set), the broker has to extend it. A dot is a trace: open one above the line to see what took the time.",
				"s", query(quantile(.95, perQueue, "handler_duration_seconds", ofSubscription), labels(perQueue)).withExemplars()).size(8, 8),
		),

		section("Topics and queues",
			table("Topics and queues", "One line for each subscription, replicas together. A click on the topic opens the Consumer dashboard. Look first for red: failures, messages that wait, and dead letters of the last hour.",
				column{"Handled", "mps", handled(perQueue), nil, false},
				column{"Failed", "percentunit", ratio(failures(perQueue), handled(perQueue)), levels(at(0, "green"), at(.01, "orange"), at(.05, "red")), false},
				column{"Handling p95", "s", number(quantile(.95, perQueue, "handler_duration_seconds", ofSubscription)), nil, false},
				column{"Delivery lag p95", "s", number(quantile(.95, perQueue, "delivery_lag_seconds", ofSubscription)), levels(at(0, "green"), at(10, "orange"), at(300, "red")), false},
				column{"Pending", "short", pending(perQueue), levels(at(0, "green"), at(1000, "orange"), at(100000, "red")), false},
				column{"In flight", "short", sum(perQueue, metric("in_flight", ofSubscription)), nil, false},
				column{"Redelivered", "mps", sum(perQueue, rate("redelivered_total", ofSubscription)), nil, false},
				column{"Dead letters, 1 h", "short", sum(perQueue, increase("dead_lettered_total", ofSubscription, "1h")), levels(at(0, "green"), at(.5, "red")), true},
				column{"Subscriptions", "short", sum(perQueue, metric("active_subscriptions", ofSubscription)), nil, false},
			),
		),
	)
}
