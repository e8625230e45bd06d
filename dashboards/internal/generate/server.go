package main

import "fmt"

const (
	ofStream   = ofProcess + `, stream=~"$stream"`
	ofConsumer = ofStream + `, topic=~"$topic", queue=~"${queue:pipe}"`

	perStream         = "stream"
	perServerConsumer = "stream, consumer"
)

func server() *dashboard {
	return newDashboard(uidServer, "Broker / Server",
		"Streams and consumers as the server sees them, also those that nobody subscribes to. It needs the collector metrics.NewServer in at least one process.",
		"now-1h", serverVariables(),
		serverNow(), serverStreams(), serverConsumers(), serverStreamCharts(), serverConsumerCharts(), serverReplicas(), serverRare())
}

func serverVariables() []variable {
	all := variables("micro_broker_consumer_pending", false)
	for i := range all {
		switch v := &all[i]; v.Name {
		case "topic": // a consumer without a filter has none
			v.AllValue = ".*"
			v.Description = "The filter of a consumer. All includes consumers without one."
		case "queue": // those without a subscriber, too
			pending := metric("consumer_pending", ofProcess)
			v.ask("query_result(" + aggregate("count", "queue", showNoQueue("max_over_time("+pending+"[$__range:5m]) or "+pending)) + ")")
		}
	}
	return append(all, choice("stream", "Stream", "micro_broker_stream_messages", ofProcess))
}

// most is the largest value of a metric. All processes that ask the server report the
// same.
func most(by, name, matchers string) string { return aggregate("max", by, metric(name, matchers)) }

// filled is the share of a stream's limits that is used: of messages or of bytes,
// whichever is nearer.
func filled(by string) string {
	share := func(of string) string {
		return fmt.Sprintf(`label_replace(%s / %s, "of", "%s", "", "")`, metric("stream_"+of, ofStream), metric("stream_max_"+of, ofStream), of)
	}
	return aggregate("max", by, share("messages")+" or "+share("bytes"))
}

func filledLevels() []step { return levels(above(0, "green"), above(.8, "orange"), above(.95, "red")) }

// age is how long ago a timestamp was.
func age(by, name, matchers string) string {
	return "time() - " + aggregate("min", by, metric(name, matchers))
}

func serverNow() row {
	return section("Now",
		stat("Server answers",
			"Whether the server has answered all of the latest questions. If not, a permission is missing or JetStream does not answer: the row Nearly always zero has the reason, and the log the question.",
			"short", query(aggregate("max", "", metric("server_up", ofProcess)), "answers")).size(4, 4).
			words(map[string]string{"0": "No", "1": "Yes"}, map[string]string{"0": "red", "1": "green"}).
			thresholds(above(0, "red"), above(1, "green")),
		stat("Processes that ask",
			"How many processes ask the server. One for each cluster is enough: each asks for itself, so if there are many, register metrics.NewServer in one of them only, or raise ServerInterval.",
			"short", query("count("+metric("server_up", ofProcess)+")", "processes")).size(3, 4).
			thresholds(above(0, "green"), above(10, "orange")),
		stat("Streams",
			"Streams that were asked about. If one is missing, see ServerStreams and ServerLimits of the collector.",
			"short", query("count("+most(perStream, "stream_messages", ofStream)+")", "streams")).size(3, 4),
		stat("Fullest stream",
			"The largest share of a limit of messages or bytes that a stream uses. At 1, publishes fail or the oldest messages are dropped: consume faster, or raise the limit.",
			"percentunit", query(filled(""), "filled")).size(4, 4).thresholds(filledLevels()...).noData("no limits"),
		stat("Waiting messages",
			"Messages that consumers have not been given yet, over all consumers. If it grows, the table of consumers shows whose.",
			"short", query(sum("", most("stream, consumer, queue", "consumer_pending", ofConsumer)), "pending")).size(4, 4),
		stat("Paused consumers",
			"Consumers that an operator has paused. If it is not 0 and nobody knows why, resume them: nats consumer resume.",
			"short", query(sum("", most(perServerConsumer, "consumer_paused", ofConsumer)), "paused")).size(3, 4).
			thresholds(above(0, "green"), above(1, "orange")),
		stat("Dead letters",
			"Messages on the dead-letter topic, which wait for somebody to read them. If it is not 0, read them, mend the cause, and redrive or drop them.",
			"short", query(sum("", most("stream, topic", "stream_dead_letters", ofStream)), "dead letters")).size(3, 4).
			thresholds(above(0, "green"), above(1, "orange")),
	)
}

func serverStreams() row {
	return section("Streams",
		table("Streams",
			"One row per stream. Look for Filled first: at 1 a stream refuses messages or drops the oldest. If a stream has messages and no consumers, nobody will ever take them.",
			[]key{{label: "stream"}},
			column{name: "Filled", unit: "percentunit", expr: filled(perStream), levels: filledLevels(), bar: true},
			column{name: "Messages", unit: "short", expr: most(perStream, "stream_messages", ofStream), bar: true},
			column{name: "Limit", unit: "short", expr: most(perStream, "stream_max_messages", ofStream)},
			column{name: "Bytes", unit: "bytes", expr: most(perStream, "stream_bytes", ofStream), bar: true},
			column{name: "Limit of bytes", unit: "bytes", expr: most(perStream, "stream_max_bytes", ofStream)},
			column{name: "Oldest message", unit: "s", expr: age(perStream, "stream_oldest_message_timestamp_seconds", ofStream)},
			column{name: "Consumers", unit: "short", expr: most(perStream, "stream_consumers", ofStream)},
			column{name: "Dead letters", unit: "short", expr: most(perStream, "stream_dead_letters", ofStream), levels: levels(above(0, "green"), above(1, "orange"))},
		).size(gridWidth, 7),
	)
}

func serverConsumers() row {
	keys := "stream, consumer, topic, queue"
	return section("Consumers",
		table("Consumers",
			"One row per consumer, also of those that nobody subscribes to. Waiting requests of 0 mean that no subscriber asks, or that all are busy. If Unsettled is at its limit, nothing new is delivered until some are settled.",
			[]key{{label: "stream"}, {label: "consumer"}, {label: "topic", title: "Open the consumer dashboard", url: toConsumer}, {label: "queue"}},
			column{name: "Pending", unit: "short", expr: most(keys, "consumer_pending", ofConsumer), levels: levels(above(0, "green"), above(1000, "orange"), above(100000, "red")), bar: true},
			column{name: "Unsettled", unit: "short", expr: most(keys, "consumer_ack_pending", ofConsumer), bar: true},
			column{name: "Limit", unit: "short", expr: most(keys, "consumer_max_ack_pending", ofConsumer)},
			column{name: "Waiting requests", unit: "short", expr: most(keys, "consumer_waiting", ofConsumer)},
			column{name: "Delivered", unit: "mps", expr: aggregate("max", keys, rate("consumer_delivered_total", ofConsumer)), bar: true},
			column{name: "Redelivered", unit: "short", expr: most(keys, "consumer_redelivered", ofConsumer)},
			column{name: "Paused", unit: "short", expr: most(keys, "consumer_paused", ofConsumer), levels: levels(above(0, "green"), above(1, "orange"))},
			column{name: "Exists for", unit: "s", expr: age(keys, "consumer_created_timestamp_seconds", ofConsumer)},
		).size(gridWidth, 8),
	)
}

func serverStreamCharts() row {
	return section("Streams over time",
		timeseries("Messages in streams",
			"Messages that a stream holds, and its limit as a dashed line. If a line comes near its limit, consume faster or raise the limit. Where messages stay although they are handled, the stream has Limits retention.",
			"short",
			query(most(perStream, "stream_messages", ofStream), "{{stream}}"),
			query(most(perStream, "stream_max_messages", ofStream), "limit {{stream}}")).size(8, 8).limitLine("^limit"),
		timeseries("Bytes in streams",
			"Bytes that a stream holds, and its limit as a dashed line. If a line comes near its limit, consume faster or raise the limit. If it grows faster than the messages, they have become larger.",
			"bytes",
			query(most(perStream, "stream_bytes", ofStream), "{{stream}}"),
			query(most(perStream, "stream_max_bytes", ofStream), "limit {{stream}}")).size(8, 8).limitLine("^limit"),
		timeseries("Growth of streams",
			"How fast the messages in a stream become more, per second; below zero they become fewer. The room that is left, divided by this, is the time until the stream is full.",
			"mps", query(aggregate("max", perStream, "deriv("+metric("stream_messages", ofStream)+"[$__rate_interval])"), "{{stream}}")).size(8, 8).freeMin(),
		timeseries("Age of the oldest message",
			"How long the oldest message has been in its stream. With WorkQueue or Interest retention it is what somebody has not handled for the longest. If it rises by a second every second, one message is stuck, or nobody subscribes to its topic.",
			"s", query(age(perStream, "stream_oldest_message_timestamp_seconds", ofStream), "{{stream}}")).size(24, 7),
	)
}

func serverConsumerCharts() row {
	legend := labels(perServerConsumer)
	return section("Consumers over time",
		timeseries("Pending of consumers",
			"Messages that a consumer has not been given yet, also while nobody subscribes. If it grows although the consumer has subscribers, they are too slow. If it has none, start them.",
			"short", query(most(perServerConsumer, "consumer_pending", ofConsumer), legend)).size(8, 8),
		timeseries("Unsettled of consumers",
			"Messages that were delivered and not settled, and the limit, MaxAckPending, as a dashed line. At the limit nothing new is delivered. If it stays there, handlers hang, or retries fill it.",
			"short",
			query(most(perServerConsumer, "consumer_ack_pending", ofConsumer), legend),
			query(most(perServerConsumer, "consumer_max_ack_pending", ofConsumer), "limit "+legend)).size(8, 8).limitLine("^limit"),
		timeseries("Deliveries of consumers",
			"Deliveries per second, to any subscriber, repeated ones included. If it is zero while messages are pending, nobody asks, the consumer is paused, or it is at its limit.",
			"mps", query(aggregate("max", perServerConsumer, rate("consumer_delivered_total", ofConsumer)), legend)).size(8, 8),
		timeseries("Waiting requests",
			"Requests of subscribers that wait for messages. If it is zero for minutes, no subscriber is there, or all of them are busy: see Pending of consumers.",
			"short", query(most(perServerConsumer, "consumer_waiting", ofConsumer), legend)).size(12, 7),
		timeseries("Age of consumers",
			"How long a consumer exists. A line that falls to zero again and again is a consumer that somebody deletes and the broker makes again. Look for a tool or a second service that manages the same name.",
			"s", query(age(perServerConsumer, "consumer_created_timestamp_seconds", ofConsumer), legend)).size(12, 7),
	)
}

func serverReplicas() row {
	return section("By replica",
		timeseries("Server answers by replica",
			"1 where the process got answers to all of its latest questions, else 0. If one process is at 0, its user lacks a permission. If all are, JetStream does not answer.",
			"short", query(aggregate("min", "job, instance", metric("server_up", ofProcess)), "{{job}} {{instance}}")).size(24, 6).max(1).stepped(),
	)
}

func serverRare() row {
	legend := labels(perServerConsumer)
	return collapsed("Nearly always zero",
		timeseries("Paused",
			"1 while a consumer is paused. Until the pause ends it delivers nothing: see Pause ends in, or resume it with nats consumer resume.",
			"short", query(most(perServerConsumer, "consumer_paused", ofConsumer), legend)).size(8, 7).max(1).stepped(),
		timeseries("Pause ends in",
			"How long a pause still lasts. If it is longer than anybody meant, resume the consumer with nats consumer resume.",
			"s", query(aggregate("max", perServerConsumer, metric("consumer_paused_until_timestamp_seconds", ofConsumer))+" - time()", legend)).size(8, 7),
		timeseries("Redelivered of consumers",
			"Messages that were delivered more than once and are not settled. If they stay, the same messages fail again and again: see Retries on the Consumer dashboard.",
			"short", query(most(perServerConsumer, "consumer_redelivered", ofConsumer), legend)).size(8, 7),
		timeseries("Dead letters in streams",
			"Messages on the dead-letter topic. If they lie there for long, nobody reads them: redrive or drop them.",
			"short", query(most("stream, topic", "stream_dead_letters", ofStream), "{{stream}} {{topic}}")).size(8, 7),
		timeseries("Questions without an answer",
			"Questions to the server that were not answered, per minute, by reason. permission: the log names the question, and the documentation of metrics.NewServer lists the permissions. Other reasons pass with the outage.",
			"cpm", query(sum("reason", rate("server_errors_total", ofProcess))+" * 60", "{{reason}}")).size(8, 7).noData("All questions were answered"),
		timeseries("More than the limits",
			"1 where there are more streams or consumers than the collector reports. If so, raise ServerLimits, or choose streams with ServerStreams.",
			"short", query(aggregate("max", "job, instance", metric("server_truncated", ofProcess)), "{{job}} {{instance}}")).size(8, 7).max(1).stepped(),
		table("Retention of streams",
			"What each stream does with messages that are handled, and when it is full. With discard old the oldest are dropped silently, with new publishes fail.",
			[]key{{label: "stream"}, {label: "retention"}, {label: "discard"}},
			column{name: "Streams", unit: "short", expr: aggregate("max", "stream, retention, discard", metric("stream_info", ofStream))},
		).size(gridWidth, 6),
	)
}
