package metrics_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	dto "github.com/prometheus/client_model/go"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// The table in the package documentation is what dashboards are written by.
func TestDocumentationListsTheMetrics(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	row := regexp.MustCompile(`(?m)^//\t(micro_broker_\w+)\{([\w,]*)\} +(counter|gauge|histogram)  +\S`)
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		labels := strings.Split(m[2], ",")
		slices.Sort(labels)
		documented[m[1]] = m[3] + " " + strings.Join(labels, ",")
	}
	if n := strings.Count(string(text), "//\tmicro_broker_"); n != len(documented) {
		t.Errorf("%d of %d rows of the table can be read", len(documented), n)
	}

	h, reg := newHooks(t)
	driveEverything(h)
	live := map[string]string{}
	for _, f := range append(gather(t, reg), serverFamilies(t)...) {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		live[f.GetName()] = strings.ToLower(f.GetType().String()) + " " + strings.Join(labels, ",")
	}

	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if live[name] == "" {
			t.Errorf("%s is documented and does not exist", name)
		} else if live[name] != documented[name] {
			t.Errorf("%s is documented as %s and is %s", name, documented[name], live[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(live)) {
		if documented[name] == "" {
			t.Errorf("%s exists and is not documented", name)
		}
	}
}

// The reasons of micro_broker_skipped_total in both tables are those of the code.
func TestDocumentationListsTheSkipReasons(t *testing.T) {
	code, err := os.ReadFile("../broker/events.go")
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, m := range regexp.MustCompile(`(?m)^\t(Skip\w+) +SkipReason = "(\w+)"`).FindAllStringSubmatch(string(code), -1) {
		if m[1] != "SkipMarker" { // counted by micro_broker_markers_total
			reasons = append(reasons, m[2])
		}
	}
	if len(reasons) < 5 {
		t.Fatalf("reasons in the code: %q", reasons)
	}
	for file, words := range map[string]string{"doc.go": `\b(\w+)\b`, "../docs/observability.md": "`(\\w+)`"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		row := regexp.MustCompile(`(?m)^(//\t|\| \x60)micro_broker_skipped_total\W.*$`).FindString(string(text))
		named := regexp.MustCompile(words).FindAllStringSubmatch(row, -1)
		for _, reason := range reasons {
			if !slices.ContainsFunc(named, func(m []string) bool { return m[1] == reason }) {
				t.Errorf("%s does not say what the reason %s means: %s", file, reason, row)
			}
		}
		if file == "doc.go" {
			continue // its words are not marked
		}
		for _, m := range named {
			if !slices.Contains(append(reasons, "micro_broker_skipped_total", "OrderBy", "MaxDeliver"), m[1]) {
				t.Errorf("%s has the reason %s, which does not exist", file, m[1])
			}
		}
	}
}

// serverFamilies are the metrics of a Server that has something to say about each.
func serverFamilies(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	srv := natstest.Start(t)
	b, js := connected(t, srv.ClientURL(), jsbroker.WithDeadLetter("orders.dead"))
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 10, MaxBytes: 1 << 20})
	until := time.Now().Add(time.Hour)
	natstest.MakeConsumer(t, js, "ORDERS", jetstream.ConsumerConfig{Durable: "q", AckPolicy: jetstream.AckExplicitPolicy, PauseUntil: &until})
	publish(t, b, "orders.dead", 1)
	return gather(t, newServer(t, b))
}
