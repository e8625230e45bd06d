package main

import "fmt"

func slo() *dashboard {
	d := newDashboard(uidSLO, "Broker / SLO",
		"Success and delivery lag against objectives. The window of the objectives is the selected time range: choose 7 or 30 days for a verdict, an hour to see an incident.",
		"now-7d", sloVariables(),
		sloNow(), sloTable(), sloSuccess(), sloInTime())
	d.Refresh = "5m" // queries over days are too expensive to run twice a minute
	return d
}

func sloVariables() []variable {
	return append(variables("micro_broker_handled_total", false),
		oneOf("objective", "Success objective", "The share of deliveries that should succeed.", 1,
			customOption{Text: "95 %", Value: "0.95"}, customOption{Text: "99 %", Value: "0.99"},
			customOption{Text: "99.5 %", Value: "0.995"}, customOption{Text: "99.9 %", Value: "0.999"}),
		// The options are bucket bounds of the histogram. Nothing in between can be
		// counted.
		oneOf("lag", "In time", "A message is in time if its handler starts within this time after the message was stored.", 2,
			customOption{Text: "100 ms", Value: "0.1"}, customOption{Text: "500 ms", Value: "0.5"}, customOption{Text: "1 s", Value: "1"},
			customOption{Text: "5 s", Value: "5"}, customOption{Text: "30 s", Value: "30"}, customOption{Text: "1 min", Value: "60"},
			customOption{Text: "5 min", Value: "300"}),
		oneOf("lag_objective", "In-time objective", "The share of messages that should be handled in time.", 1,
			customOption{Text: "90 %", Value: "0.90"}, customOption{Text: "95 %", Value: "0.95"}, customOption{Text: "99 %", Value: "0.99"},
			customOption{Text: "99.9 %", Value: "0.999"}))
}

const (
	overRange = "$__range" // the selected time range

	// The share of failures, and of late messages, that the objectives allow.
	successBudget = "(1 - $objective)"
	lagBudget     = "(1 - $lag_objective)"

	// ofInTime selects the bucket of the messages in time. Depending on the format of
	// the scrape, the label le is "1" or "1.0".
	ofInTime = ofSubscription + `, le=~"${lag}([.]0)?"`
)

// failedShare is the share of deliveries in the window that failed.
func failedShare(by, window string) string {
	return ratio(
		sum(by, increase("handler_errors_total", ofSubscription, window)+" - "+increase("deferred_total", ofSubscription, window)+" + "+increase("handler_panics_total", ofSubscription, window)),
		sum(by, increase("handled_total", ofSubscription, window)))
}

// inTimeShare is the share of messages in the window that were handled in time.
func inTimeShare(by, window string) string {
	return ratio(
		sum(by, increase("delivery_lag_seconds_bucket", ofInTime, window)),
		sum(by, increase("delivery_lag_seconds_count", ofSubscription, window)))
}

// lateShare is the share of messages in the window that were not handled in time.
func lateShare(by, window string) string { return remainder(inTimeShare(by, window)) }

// remainder is what a share leaves of the whole.
func remainder(share string) string { return "1 - " + share }

// burnRate says how fast a share of failures uses up the budget: at 1, exactly by
// the end of the window that the objective is for.
func burnRate(share, budget string) string { return fmt.Sprintf("(%s) / %s", share, budget) }

// budgetLeft is the part of the budget that a share of failures has left: 1 is all
// of it, and below 0 the objective is missed.
func budgetLeft(share, budget string) string { return fmt.Sprintf("1 - (%s) / %s", share, budget) }

func budgetLevels() []step {
	return levels(above(0, "red"), above(.000001, "orange"), above(.25, "green"))
}

func burnLevels() []step { return levels(above(0, "green"), above(1, "orange"), above(6, "red")) }

func sloNow() row {
	return section("Objectives, over the time range",
		stat("Success",
			"Share of deliveries whose handler neither returned an error nor panicked. A message that succeeds on its second delivery counts as one failure and one success. If it is below the objective, the table shows which queue is the cause.",
			"percentunit", query(remainder(failedShare("", overRange)), "success")).size(4, 4).decimals(3),
		stat("Budget left",
			"How much is left of the failures that the objective allows in this range: 1 is all of it, and below 0 the objective is missed. When it is nearly used up, avoid risky changes until it recovers.",
			"percentunit", query(budgetLeft(failedShare("", overRange), successBudget), "budget left")).size(4, 4).thresholds(budgetLevels()...),
		stat("Burn rate, 1 h",
			"How fast the budget was used in the last hour. At 1 it is used up exactly by the end of its window. At 14.4, one hour uses 2 % of a 30-day budget. Above 6, act now: the Consumer dashboard shows what fails.",
			"short", query(burnRate(failedShare("", "1h"), successBudget), "1 h")).size(4, 4).thresholds(burnLevels()...),
		stat("In time",
			"Share of messages whose handler started in time. Only first deliveries count. If it is below the objective, the queue is too slow for what is published: see Pending on the Consumer dashboard.",
			"percentunit", query(inTimeShare("", overRange), "in time")).size(4, 4).decimals(3),
		stat("Budget left (lag)",
			"How much is left of the late messages that the objective allows in this range; below 0 the objective is missed. Add replicas or raise WithConcurrency before it is used up.",
			"percentunit", query(budgetLeft(lateShare("", overRange), lagBudget), "budget left")).size(4, 4).thresholds(budgetLevels()...),
		stat("Burn rate, 1 h (lag)",
			"How fast the budget was used in the last hour. At 1 it is used up exactly by the end of its window. Above 6, messages are piling up.",
			"short", query(burnRate(lateShare("", "1h"), lagBudget), "1 h")).size(4, 4).thresholds(burnLevels()...),
	)
}

func sloSuccess() row {
	return section("Success of deliveries",
		timeseries("Success over time",
			"Share of deliveries that succeeded, per topic and queue. Gaps are times without deliveries. A dip is an incident: open the Consumer dashboard at that time.",
			"percentunit", query(remainder(ratio(failures(perQueue), handled(perQueue))), labels(perQueue)),
			query("vector($objective)", "objective")).size(12, 8).max(1).freeMin().limitLine("^objective$"),
		timeseries("Burn rate of the success budget",
			"How fast the budget is used, over 5 minutes, 1 hour and 6 hours. The alerts fire when a long and a short window are both above 14.4 or 6: it is serious, and it is still going on. They ignore queues with few deliveries, where one failure is a large share. If only the short window is high, the trouble was brief.",
			"short",
			query(burnRate(failedShare("", "5m"), successBudget), "5 min"),
			query(burnRate(failedShare("", "1h"), successBudget), "1 h"),
			query(burnRate(failedShare("", "6h"), successBudget), "6 h")).size(12, 8).limit(14.4, "red"),
	)
}

func sloInTime() row {
	return section("Delivery in time",
		timeseries("In time over time",
			"Share of messages whose handler started in time, per topic and queue. Dips at regular times are bursts, for example from a nightly job: decide whether those messages may wait.",
			"percentunit",
			query(ratio(sum(perQueue, rate("delivery_lag_seconds_bucket", ofInTime)), sum(perQueue, rate("delivery_lag_seconds_count", ofSubscription))), labels(perQueue)),
			query("vector($lag_objective)", "objective")).size(12, 8).max(1).freeMin().limitLine("^objective$"),
		timeseries("Burn rate of the lag budget",
			"How fast the budget is used, over 5 minutes, 1 hour and 6 hours. If the long window stays above 1, the objective will be missed: add capacity or change the objective.",
			"short",
			query(burnRate(lateShare("", "5m"), lagBudget), "5 min"),
			query(burnRate(lateShare("", "1h"), lagBudget), "1 h"),
			query(burnRate(lateShare("", "6h"), lagBudget), "6 h")).size(12, 8).limit(6, "red"),
	)
}

func sloTable() row {
	return section("Topics and queues, over the time range",
		table("Objectives by topic and queue",
			"Which queues use up the budgets. A click on the topic opens the Consumer dashboard. A red budget means that the objective was missed: start with the row that has the highest burn rate.",
			byTopicAndQueue,
			column{name: "Deliveries", unit: "short", expr: sum(perQueue, increase("handled_total", ofSubscription, overRange)), whole: true},
			column{name: "Success", unit: "percentunit", expr: remainder(failedShare(perQueue, overRange))},
			column{name: "Success budget left", unit: "percentunit", expr: budgetLeft(failedShare(perQueue, overRange), successBudget), levels: budgetLevels()},
			column{name: "Burn rate, 1 h", unit: "short", expr: burnRate(failedShare(perQueue, "1h"), successBudget), levels: burnLevels()},
			column{name: "In time", unit: "percentunit", expr: inTimeShare(perQueue, overRange)},
			column{name: "Lag budget left", unit: "percentunit", expr: budgetLeft(lateShare(perQueue, overRange), lagBudget), levels: budgetLevels()},
		),
	)
}
