package metrics_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
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
	for _, f := range gather(t, reg) {
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
