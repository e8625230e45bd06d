package main

func publisher() *dashboard {
	return newDashboard(uidPublisher, "Broker / Publisher and connection",
		"Do publishes succeed, how long do they take, why do they fail, and is the connection up?",
		"now-1h", variables("micro_broker_published_total", true),
		publisherNow(), publisherTable(), publisherPublishing(), publisherConnection(), publisherReplicas(), publisherFailures())
}

func published(by string) string { return sum(by, rate("published_total", ofTopic)) }

func publishFailures(by string) string { return sum(by, rate("publish_errors_total", ofTopic)) }

// publishCalls is the rate of all calls, each of which is counted as published or as
// an error. The _count of the histogram would be the same, but is missing where only
// native buckets are scraped.
func publishCalls(by string) string { return "(" + published(by) + " + " + publishFailures(by) + ")" }

func publisherNow() row {
	return section("Now",
		stat("Published",
			"Messages acknowledged by a stream, per second. If it is zero although the service works, look at Failed publishes and Connection.",
			"mps", query(published(""), "published")).size(6, 4),
		stat("Failed publishes",
			"Share of publishes that failed. If it is above zero, these events are lost unless the caller retries: open the row Failed publishes and subscriptions for the reasons.",
			"percentunit", query(ratio(publishFailures(""), publishCalls("")), "failed")).size(6, 4).
			thresholds(above(0, "green"), above(.0001, "orange"), above(.01, "red")),
		stat("Publish p95",
			"95 % of publishes have an outcome within this time. If it rises to seconds, calls wait for the connection or for a slow disk.",
			"s", query(withoutNaN(quantile(.95, "", "publish_duration_seconds", ofTopic)), "p95")).size(6, 4),
		stat("Connection",
			"Whether every broker is connected to a server. If not, Connected below shows which one is not: check that it can reach its server.",
			"short", query(aggregate("min", "", metric("connected", ofProcess)), "connected")).size(6, 4).
			words(map[string]string{"0": "Disconnected", "1": "Connected"}, map[string]string{"0": "red", "1": "green"}).
			thresholds(above(0, "red"), above(1, "green")),
	)
}

func publisherTable() row {
	return section("Topics",
		table("Topics",
			"One row per topic that is published to. Look for red first: a share of failed publishes above zero means that events are lost unless the caller retries.",
			[]key{{label: "topic"}},
			column{name: "Failed", unit: "percentunit", expr: ratio(publishFailures("topic"), publishCalls("topic")), levels: levels(above(0, "green"), above(.0001, "orange"), above(.01, "red"))},
			column{name: "Published", unit: "mps", expr: published("topic"), bar: true},
			column{name: "Publish p95", unit: "s", expr: withoutNaN(quantile(.95, "topic", "publish_duration_seconds", ofTopic))},
			column{name: "Duplicates", unit: "mps", expr: sum("topic", rate("duplicates_total", ofTopic))},
		).size(gridWidth, 8),
	)
}

func publisherPublishing() row {
	return section("Publishing",
		timeseries("Publish rate",
			"Messages acknowledged by a stream, per second, duplicates included, and how many of them are to be delivered later. The series of a topic begins with its first publish. If a line drops to zero, the service has stopped or all its publishes fail: see Errors by reason.",
			"mps", query(sum("topic", rate("published_total", ofTopic)), "{{topic}}"),
			query(sum("topic", rate("scheduled_total", ofTopic))+" > 0", "{{topic}}, later")),
		timeseries("Publish duration",
			"Time until the outcome of a publish is known, including look-ups, retries and failures. Dots are traces. p50 is one round trip and one disk write: if it doubles, look at the servers. A p99 of seconds means that calls waited for the connection.",
			"s", quantiles("publish_duration_seconds", ofTopic, "")...),
		timeseries("Bytes published",
			"Bytes of the bodies that were published, per second. If it rises while the rate of messages does not, messages have become larger.",
			"Bps", query(sum("topic", rate("published_bytes_total", ofTopic)), "{{topic}}")).size(8, 8),
		heatmap("Publish duration, all",
			"Publishes per second by duration; darker is more. A second band above the usual one shows calls that waited for the connection, for a leader, or for a slow disk.",
			"s", query(sum("le", rate("publish_duration_seconds_bucket", ofTopic)), "{{le}}").withExemplars()).size(16, 8),
	)
}

func publisherConnection() row {
	return section("Connection",
		timeseries("Connected",
			"1 while a broker is connected to a server, otherwise 0. While it is 0, publishes wait and then fail, and nothing is consumed. Check the server, the network, and whether the credentials have expired. The client keeps trying to reconnect.",
			"short", query(aggregate("min", "instance, broker", metric("connected", ofProcess)), "{{broker}} on {{instance}}")).size(12, 7).max(1).stepped(),
		timeseries("Reconnects",
			"Connections restored per minute. A few at once are normal when a server restarts. If they go on, look for a network that drops connections, a server that runs out of memory, or a slow consumer that is cut off.",
			"cpm", query(sum("instance, broker", rate("reconnects_total", ofProcess))+" * 60", "{{broker}} on {{instance}}")).size(12, 7),
		timeseries("Window of Async",
			"Messages published with Async whose outcome is not known yet, or whose done waits to be called, and the limit as a dashed line. At the limit Publish waits: the server answers slowly, or a done takes long.",
			"short",
			query(sum("instance, broker", metric("async_window_used", ofProcess)), "{{broker}} on {{instance}}"),
			query(sum("instance, broker", metric("async_window_limit", ofProcess)), "limit {{broker}} on {{instance}}")).size(12, 7).limitLine("^limit"),
		timeseries("Process starts",
			"How often a process has started within 15 minutes under the same instance. A deploy is one start, mostly of another instance. Three are a crash loop: read the end of the log and the exit code of the container. What the process had in hand is delivered again each time.",
			"short", query("max by (job, instance) (changes(process_start_time_seconds{"+ofProcess+"}[15m])"+
				" and on (job, instance) "+metric("connected", ofProcess)+")", "{{job}} {{instance}}")).size(12, 7).stepped(),
	)
}

func publisherReplicas() row {
	return section("By replica",
		timeseries("Publish rate by replica",
			"Messages acknowledged by a stream, per second, by process. A line that falls to zero while the others go on is a process that has lost its connection, or whose callers have gone.",
			"mps", query(published("job, instance"), "{{instance}}")).size(12, 8),
		timeseries("Share of failed publishes by replica",
			"Failed publishes as a share of all publishes, by process. If one line is high, that process is at fault: its credentials, its network or an old version. If all are, look at the stream and the servers.",
			"percentunit", query(ratio(publishFailures("job, instance"), publishCalls("job, instance")), "{{instance}}")).size(12, 8),
	)
}

func publisherFailures() row {
	return collapsed("Failed publishes and subscriptions",
		timeseries("Errors by reason",
			"Publishes that failed, per second. stream_full: raise the stream's limits or consume faster. disconnected, timeout: see Connected. outcome_unknown: the message may or may not be stored, so publish it again with the same MessageID. stream_not_found: create the stream or subscribe first. message_too_large, invalid_*: a bug in the caller.",
			"cps", query(sum("reason", rate("publish_errors_total", ofTopic)), "{{reason}}")).size(12, 8),
		timeseries("Share of failed publishes",
			"Failed publishes as a share of all publishes. If it stays above zero, events are lost unless the caller retries: see Errors by reason.",
			"percentunit", query(ratio(publishFailures("topic"), publishCalls("topic")), "{{topic}}")).size(12, 8),
		timeseries("Duplicates",
			"Messages per second whose id the stream already had: acknowledged, but not stored again. A few after an outage are retries doing their job. Many mean that the publisher uses one id for different messages, and loses them.",
			"mps", query(sum("topic", rate("duplicates_total", ofTopic)), "{{topic}}")).size(12, 8),
		timeseries("Subscribe errors",
			"Subscribe calls that failed, per minute, by reason. A series begins with its first failure. go-micro only logs the error and tries again after 30 s. workqueue_conflict: share the queue, or change the stream's retention. stream_mismatch, permission: check the setup of the server.",
			"cpm", query(sum("topic, reason", rate("subscribe_errors_total", ofProcess))+" * 60", "{{reason}} {{topic}}")).size(12, 8).noData("No Subscribe has failed"),
	)
}
