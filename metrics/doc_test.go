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
