package main

import "fmt"

func slo() *dashboard {
	const (
		overRange = "$__range"
		budget    = "(1 - $objective)"
		lagBudget = "(1 - $lag_objective)"
		// The label is "1" or "1.0": it depends on the format of the scrape.
		inTime = ofSubscription + `, le=~"${lag}([.]0)?"`
	)
	failed := func(by, window string) string {
		return ratio(
			sum(by, increase("handler_errors_total", ofSubscription, window)+" + "+increase("handler_panics_total", ofSubscription, window)),
			sum(by, increase("handled_total", ofSubscription, window)))
	}
	punctual := func(by, window string) string {
		return ratio(
			sum(by, increase("delivery_lag_seconds_bucket", inTime, window)),
			sum(by, increase("delivery_lag_seconds_count", ofSubscription, window)))
	}
	rest := func(expr string) string { return "1 - " + expr }
	late := func(by, window string) string { return rest(punctual(by, window)) }
	burn := func(expr, budget string) string { return fmt.Sprintf("(%s) / %s", expr, budget) }
	left := func(expr, budget string) string { return fmt.Sprintf("1 - (%s) / %s", expr, budget) }

	good := levels(at(0, "red"), at(.000001, "orange"), at(.25, "green"))
	burning := levels(at(0, "green"), at(1, "orange"), at(6, "red"))

	vars := append(variables("micro_broker_handled_total", false),
		oneOf("objective", "Success objective", "The share of deliveries that are to succeed.", 1,
			customOption{Text: "95 %", Value: "0.95"}, customOption{Text: "99 %", Value: "0.99"},
			customOption{Text: "99.5 %", Value: "0.995"}, customOption{Text: "99.9 %", Value: "0.999"}),
		// Bounds of the histogram's buckets: nothing between them can be counted.
		oneOf("lag", "In time", "A message is in time if its handler starts at most this long after it was stored.", 2,
			customOption{Text: "100 ms", Value: "0.1"}, customOption{Text: "500 ms", Value: "0.5"}, customOption{Text: "1 s", Value: "1"},
			customOption{Text: "5 s", Value: "5"}, customOption{Text: "30 s", Value: "30"}, customOption{Text: "1 min", Value: "60"},
			customOption{Text: "5 min", Value: "300"}),
		oneOf("lag_objective", "In-time objective", "The share of messages that are to be handled in time.", 1,
			customOption{Text: "90 %", Value: "0.90"}, customOption{Text: "95 %", Value: "0.95"}, customOption{Text: "99 %", Value: "0.99"},
			customOption{Text: "99.9 %", Value: "0.999"}))

	d := newDashboard(uidSLO, "Broker / SLO",
		"Success and delivery lag against objectives. The window of the objectives is the time range shown: choose 7 or 30 days for a verdict, an hour to see an incident.",
		"now-7d", vars,

		section("Success of deliveries, over the time range",
			stat("Success", "Share of deliveries whose handler neither returned an error nor panicked. A message that succeeds at the second delivery counts once as each. Below the objective: see which queue in the table.",
				"percentunit", query(rest(failed("", overRange)), "success")).size(5, 8).decimals(3),
			stat("Budget left", "How much of the failures that the objective allows in this range is left: 1 is all, below 0 the objective is missed. Nearly gone: no risky changes until it recovers.",
				"percentunit", query(left(failed("", overRange), budget), "budget left")).size(5, 8).colors(good),
			stat("Burn rate, 1 h", "How fast the budget was used in the last hour: 1 uses it up exactly in its window, 14.4 uses 2 % of a 30-day budget in an hour. Above 6: act now; the Consumer dashboard shows what fails.",
				"short", query(burn(failed("", "1h"), budget), "1 h")).size(4, 8).colors(burning),
			timeseries("Success over time", "Share of deliveries that succeeded, per topic and queue; gaps are times without deliveries. A dip is an incident: open the Consumer dashboard at that time.",
				"percentunit", query(rest(ratio(failures(perQueue), handled(perQueue))), labels(perQueue)),
				query("vector($objective)", "objective")).size(10, 8).max(1).anySign().colored("objective", "red"),
			timeseries("Burn rate of the success budget", "How fast the budget is used, over 5 minutes, 1 hour and 6 hours. The alerts fire when a long and a short window are above 14.4 or 6 together: it is serious, and it goes on. With few deliveries they do not: one failure is a large share then. Only the short one: a moment's trouble.",
				"short",
				query(burn(failed("", "5m"), budget), "5 min"),
				query(burn(failed("", "1h"), budget), "1 h"),
				query(burn(failed("", "6h"), budget), "6 h")).size(24, 8).limit(14.4, "red"),
		),

		section("Delivery in time, over the time range",
			stat("In time", "Share of messages whose handler started in time; first deliveries only. Below the objective: the queue is too slow for what is published; see Pending on the Consumer dashboard.",
				"percentunit", query(punctual("", overRange), "in time")).size(5, 8).decimals(3),
			stat("Budget left (lag)", "How much of the delays that the objective allows in this range is left; below 0 the objective is missed. Add replicas or raise WithConcurrency before it is gone.",
				"percentunit", query(left(late("", overRange), lagBudget), "budget left")).size(5, 8).colors(good),
			stat("Burn rate, 1 h (lag)", "How fast the budget was used in the last hour; 1 uses it up exactly in its window. Above 6: messages pile up now.",
				"short", query(burn(late("", "1h"), lagBudget), "1 h")).size(4, 8).colors(burning),
			timeseries("In time over time", "Share of messages whose handler started in time, per topic and queue. Dips at regular times: bursts, for example of a nightly job; decide whether they may wait.",
				"percentunit",
				query(ratio(sum(perQueue, rate("delivery_lag_seconds_bucket", inTime)), sum(perQueue, rate("delivery_lag_seconds_count", ofSubscription))), labels(perQueue)),
				query("vector($lag_objective)", "objective")).size(10, 8).max(1).anySign().colored("objective", "red"),
			timeseries("Burn rate of the lag budget", "How fast the budget is used, over 5 minutes, 1 hour and 6 hours. Long above 1: the objective will be missed; add capacity or change the objective.",
				"short",
				query(burn(late("", "5m"), lagBudget), "5 min"),
				query(burn(late("", "1h"), lagBudget), "1 h"),
				query(burn(late("", "6h"), lagBudget), "6 h")).size(24, 8).limit(6, "red"),
		),

		section("Topics and queues, over the time range",
			table("Objectives by topic and queue", "Where the budgets go. A click on the topic opens the Consumer dashboard. Red is an objective that was missed: begin with the line that burns now.",
				column{"Deliveries", "short", sum(perQueue, increase("handled_total", ofSubscription, overRange)), nil, true},
				column{"Success", "percentunit", rest(failed(perQueue, overRange)), nil, false},
				column{"Success budget left", "percentunit", left(failed(perQueue, overRange), budget), good, false},
				column{"Burn rate, 1 h", "short", burn(failed(perQueue, "1h"), budget), burning, false},
				column{"In time", "percentunit", punctual(perQueue, overRange), nil, false},
				column{"Lag budget left", "percentunit", left(late(perQueue, overRange), lagBudget), good, false},
			),
		),
	)
	d.Refresh = "5m" // days are a lot to read twice a minute
	return d
}
