package metrics

import (
	"runtime"
	"runtime/debug"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

func TestModuleVersion(t *testing.T) {
	const path = "go-micro-jetstream"
	for _, c := range []struct {
		name, want string
		info       debug.BuildInfo
	}{
		{"the checkout", "(devel)", debug.BuildInfo{Main: debug.Module{Path: path, Version: "(devel)"}}},
		{"a test", "(devel)", debug.BuildInfo{Main: debug.Module{Path: path}}},
		{"a dependency", "v1.2.3", debug.BuildInfo{Main: debug.Module{Path: "shop", Version: "v9.0.0"}, Deps: []*debug.Module{{Path: "other", Version: "v2.0.0"}, {Path: path, Version: "v1.2.3"}}}},
		{"a fork", "v1.2.4", debug.BuildInfo{Deps: []*debug.Module{{Path: path, Version: "v1.2.3", Replace: &debug.Module{Path: "fork", Version: "v1.2.4"}}}}},
		{"a directory", "(devel)", debug.BuildInfo{Deps: []*debug.Module{{Path: path, Version: "v1.2.3", Replace: &debug.Module{Path: "../fork"}}}}},
	} {
		if got := moduleVersion(&c.info, path); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	var m dto.Metric
	if err := newBuildInfo().Write(&m); err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Label {
		if want := map[string]string{"goversion": runtime.Version(), "version": "(devel)"}[l.GetName()]; l.GetValue() != want {
			t.Errorf("%s is %q, want %q", l.GetName(), l.GetValue(), want)
		}
	}
}
