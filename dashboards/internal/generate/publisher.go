package main

func publisher() *dashboard {
	return newDashboard(uidPublisher, "Broker / Publisher and connection",
		"Do publishes succeed, how long do they take, why do they fail, and is the connection up?",
		"now-1h", variables("micro_broker_published_total", true),
		publisherPublishing(), publisherConnection())
}

func publisherPublishing() row {
	// All calls are counted as published or as an error. The _count of the histogram
	// would be the same, but is missing where only native buckets are scraped.
	errs := sum("topic", rate("publish_errors_total", ofTopic))
	calls := sum("topic", rate("published_total", ofTopic)) + " + " + errs
	return section("Publishing",
		timeseries("Publish rate",
			"Messages acknowledged by a stream, per second, duplicates included. The series of a topic begins with its first publish. If a line drops to zero, the service has stopped or all its publishes fail: see Errors by reason.",
			"mps", query(sum("topic", rate("published_total", ofTopic)), "{{topic}}")),
		timeseries("Publish duration",
			"Time until the outcome of a publish is known, including look-ups, retries and failures. Dots are traces. p50 is one round trip and one disk write: if it doubles, look at the servers. A p99 of seconds means that calls waited for the connection.",
			"s", quantiles("publish_duration_seconds", ofTopic, "")...),
		timeseries("Errors by reason",
			"Publishes that failed, per second. stream_full: raise the stream's limits or consume faster. disconnected, timeout: see Connected. outcome_unknown: the message may or may not be stored, so publish it again with the same MessageID. stream_not_found: create the stream or subscribe first. message_too_large, invalid_*: a bug in the caller.",
			"cps", query(sum("reason", rate("publish_errors_total", ofTopic)), "{{reason}}")).size(8, 8),
		timeseries("Share of failed publishes",
			"Failed publishes as a share of all publishes. If it stays above zero, events are lost unless the caller retries: see Errors by reason.",
			"percentunit", query(ratio(errs, calls), "{{topic}}")).size(8, 8),
		timeseries("Duplicates",
			"Messages per second whose id the stream already had: acknowledged, but not stored again. A few after an outage are retries doing their job. Many mean that the publisher uses one id for different messages, and loses them.",
			"mps", query(sum("topic", rate("duplicates_total", ofTopic)), "{{topic}}")).size(8, 8),
		heatmap("Publish duration, all",
			"Publishes per second by duration; darker is more. A second band above the usual one shows calls that waited for the connection, for a leader, or for a slow disk.",
			"s", query(sum("le", rate("publish_duration_seconds_bucket", ofTopic)), "{{le}}").withExemplars()).size(24, 9),
	)
}

func publisherConnection() row {
	return section("Connection",
		timeseries("Connected",
			"1 while a broker is connected to a server, otherwise 0. While it is 0, publishes wait and then fail, and nothing is consumed. Check the server, the network, and whether the credentials have expired. The client keeps trying to reconnect.",
			"short", query(aggregate("min", "instance, broker", metric("connected", ofProcess)), "{{broker}} on {{instance}}")).size(8, 8).max(1).stepped(),
		timeseries("Reconnects",
			"Connections restored per minute. A few at once are normal when a server restarts. If they go on, look for a network that drops connections, a server that runs out of memory, or a slow consumer that is cut off.",
			"cpm", query(sum("instance, broker", rate("reconnects_total", ofProcess))+" * 60", "{{broker}} on {{instance}}")).size(8, 8),
		timeseries("Subscribe errors",
			"Subscribe calls that failed, per minute, by reason. A series begins with its first failure. go-micro only logs the error and tries again after 30 s. workqueue_conflict: share the queue, or change the stream's retention. stream_mismatch, permission: check the setup of the server.",
			"cpm", query(sum("topic, reason", rate("subscribe_errors_total", ofProcess))+" * 60", "{{reason}} {{topic}}")).size(8, 8).noData("No Subscribe has failed"),
	)
}
