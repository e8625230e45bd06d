package main

import (
	"fmt"
	"strings"
)

func flow() *dashboard {
	const topics = "micro_broker_published_total|micro_broker_handled_total"
	return newDashboard(uidFlow, "Broker / Flow",
		"Which services publish to which topics, and who consumes them: rate, wait and failures along the way. From metrics alone.",
		"now-1h", variables(topics, false),
		flowNow(), flowConsumers(), flowPublishers(), flowGraph(), flowReplicas())
}

const (
	perPublisher = "job, topic"
	perConsumer  = "topic, queue, job"
)

// patterns gives each series of a publisher the label pattern: the topics to subscribe
// to that include its topic. A topic has several: orders.eu.created is published to
// itself, to orders.eu.*, orders.*.created, orders.*.*, orders.> and so on. PromQL can
// replace a token of a text, but not compare it with a pattern, so each form is a query
// of its own. Beyond these forms are an asterisk at the fourth token or later that is
// not the last, and > behind more than three tokens. Nobody can subscribe to a pattern
// that begins with one.
func patterns(expr string) string { return inForms(expr, patternForms) }

// widerPatterns leaves out the topic itself.
func widerPatterns(expr string) string { return inForms(expr, patternForms[1:]) }

// patternForms are what replaces a topic, and the topics that it replaces. T is a token.
var patternForms = []struct{ pattern, topic string }{
	{"$1", "(.+)"},
	{"$1.*", "(.+)[.]T"},
	{"$1.*$2", "(T)[.]T([.].+)"},
	{"$1.*$2.*", "(T)[.]T((?:[.]T)*)[.]T"},
	{"$1.*$2", "(T[.]T)[.]T([.].+)"},
	{"$1.*$2.*", "(T[.]T)[.]T((?:[.]T)*)[.]T"},
	{"$1.*.*$2", "(T)[.]T[.]T([.].+)"},
	{"$1.*.*$2.*", "(T)[.]T[.]T((?:[.]T)*)[.]T"},
	{"$1.>", "(T)[.].+"},
	{"$1.>", "(T[.]T)[.].+"},
	{"$1.*.>", "(T)[.]T[.].+"},
	{"$1.>", "(T[.]T[.]T)[.].+"},
	{"$1.*$2.>", "(T)[.]T([.]T)[.].+"},
	{"$1.*.>", "(T[.]T)[.]T[.].+"},
	{"$1.*.*.>", "(T)[.]T[.]T[.].+"},
}

func inForms(expr string, forms []struct{ pattern, topic string }) string {
	as := make([]string, len(forms))
	for i, form := range forms {
		as[i] = fmt.Sprintf(`label_replace(%s, "pattern", "%s", "topic", "%s")`, expr, form.pattern, strings.ReplaceAll(form.topic, "T", "[^.]+"))
	}
	return strings.Join(as, " or ")
}

// subscribed gives each series of a consumer the label pattern: what it subscribed to.
func subscribed(expr string) string {
	return fmt.Sprintf(`label_replace(%s, "pattern", "$1", "topic", "(.+)")`, expr)
}

// ofFlow selects publishers. The topic is that of consumers: for them a pattern.
const ofFlow = ofProcess

// publishedInto is the rate at which messages come for each consumer.
func publishedInto(by string) string {
	rates := sum(perPublisher, rate("published_total", ofFlow))
	into := sum("pattern", patterns(rates))
	consumers := "0 * " + subscribed(aggregate("count", by, metric("active_subscriptions", ofSubscription)))
	return fmt.Sprintf("%s + on (pattern) group_left () %s", consumers, into)
}

func flowNow() row {
	subscriptions := metric("active_subscriptions", ofSubscription)
	return section("Now",
		stat("Publishing services",
			"Jobs that have published since they started. If one is missing, it has published nothing, or Prometheus does not scrape it.",
			"short", query("count("+aggregate("count", "job", rate("published_total", ofTopic))+")", "services")).size(5, 4),
		stat("Consuming services",
			"Jobs that have a subscription. If one is missing, its Subscribe has failed or it does not run: see Subscribe errors on the Publisher dashboard.",
			"short", query("count("+aggregate("count", "job", subscriptions)+")", "services")).size(5, 4),
		stat("Published",
			"Messages acknowledged by a stream, per second. If it is far above Handled, messages pile up, or nobody subscribes to some of them.",
			"mps", query(sum("", rate("published_total", ofTopic)), "published")).size(5, 4),
		stat("Handled",
			"Deliveries handled per second. It is above Published where several queues get the same message, and where deliveries are repeated.",
			"mps", query(handled(""), "handled")).size(4, 4),
		stat("Failed deliveries",
			"Share of deliveries whose handler returned an error or panicked. The table shows where along the way it happens.",
			"percentunit", query(ratio(failures(""), handled("")), "failed")).size(5, 4).
			thresholds(failureLevels()...),
	)
}

func flowConsumers() row {
	count := func(counter, by string) string { return sum(by, rate(counter, ofSubscription)) }
	return section("Who consumes what",
		table("From topics to services",
			"One row per topic, queue and service. Published is what comes for it, over all services that publish there: compare it with Handled. If Handled stays below it, Pending grows. A subscription with an asterisk behind its third token that is not the last, or with > behind more than three, shows no Published. A click on the topic opens the Consumer dashboard.",
			[]key{{label: "topic", title: "Open the consumer dashboard", url: toConsumer}, {label: "queue"}, {label: "job"}},
			column{name: "Published", unit: "mps", expr: publishedInto(perConsumer), bar: true},
			column{name: "Handled", unit: "mps", expr: handled(perConsumer), bar: true},
			column{name: "Failed", unit: "percentunit", expr: ratio(failures(perConsumer), handled(perConsumer)), levels: failureLevels(), bar: true},
			column{name: "Delivery lag p95", unit: "s", expr: withoutNaN(quantile(.95, perConsumer, "delivery_lag_seconds", ofSubscription)), levels: lagLevels(), bar: true},
			column{name: "Pending", unit: "short", expr: pending(perConsumer), levels: levels(above(0, "green"), above(1000, "orange"), above(100000, "red")), bar: true},
			column{name: "Redelivered", unit: "mps", expr: count("redelivered_total", perConsumer)},
			column{name: "Dead letters, 1 h", unit: "short", expr: sum(perConsumer, increase("dead_lettered_total", ofSubscription, "1h")), levels: levels(above(0, "green"), above(.5, "red")), whole: true},
		).size(gridWidth, 10),
	)
}

func flowPublishers() row {
	calls := "(" + sum(perPublisher, rate("published_total", ofTopic)) + " + " + sum(perPublisher, rate("publish_errors_total", ofTopic)) + ")"
	consumers := subscribed(aggregate("count", "topic, queue", metric("active_subscriptions", ofProcess)))
	rates := sum(perPublisher, rate("published_total", ofTopic))
	return section("Who publishes what",
		table("From services to topics",
			"One row per service and topic. Subscribed as is how many topics and patterns that somebody subscribes to include it. If it is empty, nobody in the selected services consumes these messages: they wait in the stream.",
			[]key{{label: "job"}, {label: "topic"}},
			column{name: "Published", unit: "mps", expr: rates, bar: true},
			column{name: "Failed", unit: "percentunit", expr: ratio(sum(perPublisher, rate("publish_errors_total", ofTopic)), calls), levels: levels(above(0, "green"), above(.0001, "orange"), above(.01, "red")), bar: true},
			column{name: "Publish p95", unit: "s", expr: withoutNaN(quantile(.95, perPublisher, "publish_duration_seconds", ofTopic)), bar: true},
			column{name: "Subscribed as", unit: "short", expr: aggregate("count", perPublisher, "("+patterns(rates)+") and on (pattern) "+consumers)},
		).size(gridWidth, 9),
	)
}

// edge gives each series the labels source and target, made of one label each.
func edge(expr, source, from, target, to string) string {
	return fmt.Sprintf(`label_replace(label_replace(%s, "source", "%s", "%s", "(.+)"), "target", "%s", "%s", "(.+)")`, expr, source, from, target, to)
}

// flowGraph draws services and topics. Grafana's node graph makes the nodes of the
// edges, if these have the fields id, source and target, and shows the field mainstat
// beside each. They have to be labels, as a renamed field keeps its first name there:
// hence count_values, which makes a label of the rate.
func flowGraph() row {
	const service = "service $1" // never a topic, which cannot have blanks
	edges := strings.Join([]string{
		edge(sum(perPublisher, rate("published_total", ofTopic)), service, "job", "$1", "topic"),
		edge("("+widerPatterns(sum("topic", rate("published_total", ofFlow)))+") and on (pattern) "+
			subscribed(aggregate("count", "topic", metric("active_subscriptions", ofSubscription))), "$1", "topic", "$1", "pattern"),
		edge(handled("topic, job"), "$1", "topic", service, "job"),
	}, " or ")
	rates := fmt.Sprintf(`count_values by (id, source, target) ("mainstat", round(label_join(%s, "id", " to ", "source", "target"), 0.01))`, edges)
	t := query(fmt.Sprintf(`label_replace(%s, "mainstat", "$1 msg/s", "mainstat", "(.*)")`, rates), "{{source}} to {{target}}")
	t.Range, t.Instant, t.Format = false, true, "table"
	graph := newPanel("nodeGraph", "The way of messages",
		"Which service publishes to which topic, which patterns include it, and which service handles it, with messages per second along the way. Point at a line for its rate: where less comes out of a topic than goes in, messages wait; a topic without a line to a service has no subscriber here.",
		"mps", []target{t}).size(gridWidth, 14)
	graph.Options = object{"edges": object{}, "nodes": object{}}
	return section("The whole way", graph)
}

func flowReplicas() row {
	return section("By replica",
		timeseries("Published and handled by replica",
			"Messages published, and deliveries handled, per second and process. A line that falls to zero while those of its siblings go on is a process that hangs or has lost its connection.",
			"mps",
			query(sum("job, instance", rate("published_total", ofTopic)), "published {{job}} {{instance}}"),
			query(handled("job, instance"), "handled {{job}} {{instance}}")).size(24, 8),
	)
}
