package dashboards_test

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"
)

// backfill writes blocks for a Prometheus with what it would have if it had scraped a
// process with these metrics. From one scrape to the next each counter grows as it did
// from before to after. Times are those of the scrapes, so nobody has to wait for them.
type backfill struct {
	text  bytes.Buffer
	done  map[string]bool // families that are written
	dir   string
	end   time.Time
	lasts time.Duration
}

func newBackfill(t *testing.T, lasts time.Duration) *backfill {
	return &backfill{done: map[string]bool{}, dir: t.TempDir(), end: time.Now().Truncate(time.Second), lasts: lasts}
}

// add writes the samples of one family of each of the jobs, which are scraped at these
// intervals.
func (b *backfill) add(t *testing.T, before, after *dto.MetricFamily, jobs map[string]time.Duration) {
	t.Helper()
	out := &dto.MetricFamily{Name: after.Name, Type: after.Type}
	old := map[string]*dto.Metric{}
	for _, m := range before.GetMetric() {
		old[labelText(m)] = m
	}
	for job, every := range jobs {
		scrapes := int(b.lasts / every)
		for _, m := range after.Metric {
			for i := range scrapes + 1 {
				// Not at whole minutes, as no real scrape is.
				at := b.end.Add(-time.Duration(scrapes-i)*every - every/3)
				sample := grown(old[labelText(m)], m, i)
				sample.TimestampMs = new(at.UnixMilli())
				sample.Label = append([]*dto.LabelPair{
					{Name: new("job"), Value: new(job)}, {Name: new("instance"), Value: new("127.0.0.1:2112")},
				}, m.Label...)
				out.Metric = append(out.Metric, sample)
			}
		}
	}
	if _, err := expfmt.MetricFamilyToOpenMetrics(&b.text, out); err != nil {
		t.Fatal(err)
	}
}

func labelText(m *dto.Metric) string {
	var all []string
	for _, l := range m.Label {
		all = append(all, l.GetName()+"="+l.GetValue())
	}
	return strings.Join(all, ",")
}

// grown is a metric at its i-th scrape.
func grown(before, after *dto.Metric, i int) *dto.Metric {
	n := float64(i)
	m := proto.CloneOf(after)
	switch {
	case m.Counter != nil:
		m.Counter.Exemplar = nil
		m.Counter.Value = new(after.Counter.GetValue() + n*(after.Counter.GetValue()-before.GetCounter().GetValue()))
	case m.Histogram != nil:
		h, was := after.Histogram, before.GetHistogram()
		steps := uint64(i)
		count := h.GetSampleCount() + steps*(h.GetSampleCount()-was.GetSampleCount())
		m.Histogram = &dto.Histogram{
			SampleCount: &count,
			SampleSum:   new(h.GetSampleSum() + n*(h.GetSampleSum()-was.GetSampleSum())),
		}
		for j, bucket := range h.Bucket {
			c := bucket.GetCumulativeCount()
			if j < len(was.GetBucket()) {
				c += steps * (c - was.Bucket[j].GetCumulativeCount())
			} else {
				c += steps * c
			}
			m.Histogram.Bucket = append(m.Histogram.Bucket, &dto.Bucket{CumulativeCount: &c, UpperBound: bucket.UpperBound})
		}
	}
	return m
}

// serve starts a Prometheus with what was added.
func (b *backfill) serve(t *testing.T) *prom {
	t.Helper()
	b.text.WriteString("# EOF\n")
	input := filepath.Join(b.dir, "samples.txt")
	if err := os.WriteFile(input, b.text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(b.dir, "data")
	promtool(t, "tsdb", "create-blocks-from", "openmetrics", "--quiet", input, data)
	return runPrometheus(t, "{}", data)
}

// scrapeIntervals are those at which each panel must have data, by job.
var scrapeIntervals = map[string]time.Duration{
	"every 15s": 15 * time.Second, "every 30s": 30 * time.Second, "every 1m": time.Minute, "every 2m": 2 * time.Minute,
}

// Every panel has data at scrape intervals from 15 s to 2 min, with a data source that
// knows nothing of them, on a large screen and on a phone. A line has no gap.
func TestEveryPanelHasDataAtEveryScrapeInterval(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	s := openShop(t)
	gather := func() map[string]*dto.MetricFamily {
		families, err := s.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]*dto.MetricFamily{}
		for _, f := range families {
			all[f.GetName()] = f
		}
		return all
	}
	s.round(t)
	before := gather()
	s.round(t)
	s.outage(t)
	b := newBackfill(t, 40*time.Minute)
	for name, family := range gather() {
		b.add(t, before[name], family, scrapeIntervals)
	}
	p := b.serve(t)

	queries := 0
	for _, v := range []viewer{
		{screen: 1440, looksAt: 15 * time.Minute},
		{screen: 1440, looksAt: 30 * time.Minute, fixed: true},
		{screen: 390, looksAt: 30 * time.Minute},
		{screen: 1440, looksAt: 15 * time.Minute, scrape: "that of the job"},
	} {
		for job, every := range scrapeIntervals {
			v := v
			if v.scrape != "" {
				v.scrape = every.String()
			}
			for _, d := range readDashboards(t) {
				queries += p.checkView(t, v, d, job, b.end)
			}
		}
	}
	t.Logf("%d queries", queries)

	// The negative control: what the data source would do by itself.
	u := use{expr: `rate(micro_broker_handled_total{job="$job"}[$__rate_interval])`}
	for job, every := range scrapeIntervals {
		v := viewer{screen: 1440, looksAt: 15 * time.Minute}
		step, rate := v.intervals(24, sourceInterval)
		expr := fill(u.expr, map[string]string{"job": job, "__rate_interval": rate.String()})
		if empty := p.covers(u, expr, b.end, v.looksAt, step) != ""; empty != (every >= time.Minute) {
			t.Errorf("without a minimum step: nothing for what is scraped %s: %v", job, empty)
		}
	}
}

// checkView runs the queries of a dashboard as somebody looks at it.
func (p *prom) checkView(t *testing.T, v viewer, d dashboard, job string, end time.Time) (queries int) {
	t.Helper()
	minStep := v.minStep(d.variable(t, "scrape"))
	for _, u := range d.uses() {
		values := u.choices(d.all())[0]
		values["job"] = job
		step, rate := v.intervals(u.width, minStep)
		values["__rate_interval"] = fmt.Sprint(rate.Seconds(), "s")
		values["__range"] = fmt.Sprint(v.looksAt.Seconds(), "s")
		queries++
		if problem := p.covers(u, fill(u.expr, values), end, v.looksAt, step); problem != "" {
			t.Errorf("%s, scraped %s (%v): %s", u.where, job, v, problem)
		}
	}
	return queries
}

// covers says what is missing of a query's result: any value at the end, or one of its
// points over the time range.
func (p *prom) covers(u use, expr string, end time.Time, looksAt, step time.Duration) string {
	if u.target.Instant {
		result, err := p.queryAt(end, 0, 0, expr)
		if err != nil || len(result) == 0 {
			return fmt.Sprintf("%d series, %v: %s", len(result), err, expr)
		}
		return ""
	}
	result, err := p.queryAt(end, looksAt, step, expr)
	if err != nil {
		return err.Error()
	}
	points := 0
	for _, s := range result {
		points = max(points, len(s.finite))
	}
	if want := int(looksAt / step); points < want {
		return fmt.Sprintf("%d of %d points: %s", points, want, expr)
	}
	return ""
}

// queryAt asks for the time range that ends there, or for the one moment.
func (p *prom) queryAt(end time.Time, looksAt, step time.Duration, expr string) ([]series, error) {
	if step == 0 {
		return p.ask("query", url.Values{"query": {expr}, "time": {unix(end)}})
	}
	// Grafana aligns the range to the step.
	first, last := end.Add(-looksAt).Truncate(step), end.Truncate(step)
	return p.ask("query_range", url.Values{
		"query": {expr}, "start": {unix(first)}, "end": {unix(last)},
		"step": {strconv.FormatFloat(step.Seconds(), 'f', -1, 64)},
	})
}

// A month on a large screen is no more than Prometheus answers, in every version of
// Grafana.
func TestLongTimeRangesStayBelowPrometheusLimit(t *testing.T) {
	const limit = 11_000
	for _, d := range readDashboards(t) {
		for _, u := range d.uses() {
			for _, looksAt := range []time.Duration{24 * time.Hour, 30 * 24 * time.Hour, 365 * 24 * time.Hour} {
				for _, fixed := range []bool{false, true} {
					v := viewer{screen: 2560, looksAt: looksAt, fixed: fixed}
					step, _ := v.intervals(u.width, v.minStep(d.variable(t, "scrape")))
					if points := looksAt / step; points > limit {
						t.Errorf("%s (%v): %d points", u.where, v, points)
					}
				}
			}
		}
	}
}

// A choice of variables selects exactly what it says.
func TestVariablesSelectExactly(t *testing.T) {
	t.Parallel()
	needPrometheus(t)
	family := &dto.MetricFamily{Name: new("micro_broker_active_subscriptions"), Type: dto.MetricType_GAUGE.Enum()}
	topics := []string{"orders", "orders.>", "orders.*", "orders.created", "orders-created", "ordersXcreated", "orders.created.eu"}
	queues := []string{"", "billing", "billing-2", "no-queue"}
	all := map[string]bool{}
	for _, topic := range topics {
		for _, queue := range queues {
			family.Metric = append(family.Metric, &dto.Metric{
				Label: []*dto.LabelPair{{Name: new("topic"), Value: new(topic)}, {Name: new("queue"), Value: new(queue)}},
				Gauge: &dto.Gauge{Value: new(1.0)},
			})
			all[topic+"|"+queue] = true
		}
	}
	b := newBackfill(t, 10*time.Minute)
	b.add(t, family, family, map[string]time.Duration{"shop": time.Minute})
	p := b.serve(t)

	var d dashboard
	var queueQuery use
	for _, d = range readDashboards(t) {
		for _, u := range d.variableUses(t) {
			if strings.HasSuffix(u.where, "variable queue") {
				queueQuery = u
			}
		}
	}
	// What can be chosen for the queue is what Prometheus answers.
	values := map[string]string{"job": ".+", "instance": ".+", "topic": ".+", "__range": "300s"}
	offered, err := p.queryAt(b.end, 0, 0, fill(queueQuery.expr, values))
	if err != nil {
		t.Fatal(err)
	}
	choices := map[string]string{} // the queue that each choice means
	for _, s := range offered {
		queue := s.labels["queue"]
		choices[queue] = queue
		if !slices.Contains(queues, queue) {
			choices[queue] = "" // the one without a name
		}
	}
	if len(choices) != len(queues) {
		t.Fatalf("queues to choose from: %v", choices)
	}

	var choosable []string
	for c := range choices {
		choosable = append(choosable, c)
	}
	slices.Sort(choosable)
	check := func(topics, queues []string) {
		t.Helper()
		want := map[string]bool{}
		for series := range all {
			topic, queue, _ := strings.Cut(series, "|")
			chosen := len(queues) == 0 || slices.ContainsFunc(queues, func(c string) bool { return choices[c] == queue })
			want[series] = chosen && (len(topics) == 0 || slices.Contains(topics, topic))
		}
		values["topic"] = chosenValues(d.variable(t, "topic"), "", topics...)
		values["queue"] = chosenValues(d.variable(t, "queue"), "pipe", queues...)
		expr := fill(`micro_broker_active_subscriptions{job=~"$job", topic=~"$topic", queue=~"${queue:pipe}"}`, values)
		result, err := p.queryAt(b.end, 0, 0, expr)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range result {
			series := s.labels["topic"] + "|" + s.labels["queue"]
			if !want[series] {
				t.Errorf("topics %q, queues %q: %s is selected: %s", topics, queues, series, expr)
			}
			delete(want, series)
		}
		for series, missing := range want {
			if missing {
				t.Errorf("topics %q, queues %q: %s is not selected: %s", topics, queues, series, expr)
			}
		}
	}
	check(nil, nil)
	for i, topic := range topics {
		check([]string{topic}, nil)
		check([]string{topic, topics[(i+1)%len(topics)]}, choosable[:2])
	}
	for i, c := range choosable {
		check(nil, []string{c})
		check(topics[:1], []string{c, choosable[(i+1)%len(choosable)]})
	}
}
