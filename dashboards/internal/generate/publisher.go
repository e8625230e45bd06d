package main

func publisher() *dashboard {
	// Not the histogram's _count, which a scrape of native buckets leaves out.
	errs := sum("topic", rate("publish_errors_total", ofTopic))
	calls := sum("topic", rate("published_total", ofTopic)) + " + " + errs
	return newDashboard(uidPublisher, "Broker / Publisher and connection",
		"Do publishes get through, how long do they take, why do they fail, and is the connection up?",
		"now-1h", variables("micro_broker_published_total", true),

		section("Publishing",
			timeseries("Publish rate", "Messages acknowledged by a stream per second, duplicates included. The series of a topic begin with its first publish. A line that falls to zero: the service has stopped, or all its publishes fail; see Errors.",
				"mps", query(sum("topic", rate("published_total", ofTopic)), "{{topic}}")),
			timeseries("Publish duration", "How long publishes take until the outcome is known, look-ups, retries and failures included. Dots are traces. p50 is a round trip and a disk write; if it doubles, look at the servers. p99 of seconds: calls have waited for the connection.",
				"s", quantiles("publish_duration_seconds", ofTopic, "")...),
			timeseries("Errors by reason", "Publishes that failed, per second. stream_full: raise the stream's limits or consume more. disconnected, timeout: see Connected. outcome_unknown: stored or not, publish again with the same MessageID. stream_not_found: create the stream or subscribe first. message_too_large, invalid_*: a bug of the caller.",
				"cps", query(sum("reason", rate("publish_errors_total", ofTopic)), "{{reason}}")).size(8, 8),
			timeseries("Share of failed publishes", "Errors by calls, which end as published or as an error. Above zero for more than moments: events are lost unless the caller tries again; the reason is beside.",
				"percentunit", query(ratio(errs, calls), "{{topic}}")).size(8, 8),
			timeseries("Duplicates", "Messages per second whose id the stream already had: acknowledged, but not stored again. A few after an outage are retries doing their work. Many: the publisher uses an id for different messages, and loses them.",
				"mps", query(sum("topic", rate("duplicates_total", ofTopic)), "{{topic}}")).size(8, 8),
			heatmap("Publish duration, all", "Publishes per second by duration; darker is more. A second band above the usual one: calls that waited for the connection, for a leader, or for a slow disk.",
				"s", query(sum("le", rate("publish_duration_seconds_bucket", ofTopic)), "{{le}}").withExemplars()).size(24, 9),
		),

		section("Connection",
			timeseries("Connected", "1 while a broker is connected to a server, else 0. 0 while the process runs: publishes wait and then fail, nothing is consumed. Check the server, the network, and whether credentials have expired. The client tries again for ever.",
				"short", query(aggregate("min", "instance, broker", metric("connected", ofProcess)), "{{broker}} on {{instance}}")).size(8, 8).max(1).steps(),
			timeseries("Reconnects", "Connections restored per minute. A few at a time when a server restarts. Again and again: a network that drops connections, a server that runs out of memory, or a slow consumer that is cut off.",
				"cpm", query(sum("instance, broker", rate("reconnects_total", ofProcess))+" * 60", "{{broker}} on {{instance}}")).size(8, 8),
			timeseries("Subscribe errors", "Subscribe calls that failed, per minute, by reason; there is no series before the first. go-micro tries again after 30 s and only logs it. workqueue_conflict: share the queue or change the stream's retention. stream_mismatch, permission: the server's set-up.",
				"cpm", query(sum("topic, reason", rate("subscribe_errors_total", ofProcess))+" * 60", "{{reason}} {{topic}}")).size(8, 8).orElse("No Subscribe has failed"),
		),
	)
}
