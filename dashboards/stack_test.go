package dashboards_test

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const stackDir = "../examples/stack"

type compose struct {
	Name     string
	Services map[string]struct {
		Image       string
		Command     []string
		WorkingDir  string `yaml:"working_dir"`
		Environment map[string]string
		Volumes     []string
		Ports       []string
		DependsOn   []string `yaml:"depends_on"`
		Restart     string
	}
	Volumes map[string]any
}

type datasources struct {
	APIVersion  int `yaml:"apiVersion"`
	Datasources []struct {
		Name, UID, Type, Access, URL string
		IsDefault                    bool `yaml:"isDefault"`
		JSONData                     struct {
			HTTPMethod   string `yaml:"httpMethod"`
			TimeInterval string `yaml:"timeInterval"`
			Exemplars    []struct {
				Name          string
				DatasourceUID string `yaml:"datasourceUid"`
			} `yaml:"exemplarTraceIdDestinations"`
		} `yaml:"jsonData"`
	}
}

type providers struct {
	APIVersion int `yaml:"apiVersion"`
	Providers  []struct {
		Name, Folder, Type string
		DisableDeletion    bool                  `yaml:"disableDeletion"`
		AllowUIUpdates     bool                  `yaml:"allowUiUpdates"`
		Options            struct{ Path string } `yaml:"options"`
	}
}

type scrapeConfig struct {
	Global struct {
		ScrapeInterval     string `yaml:"scrape_interval"`
		EvaluationInterval string `yaml:"evaluation_interval"`
	}
	RuleFiles     []string `yaml:"rule_files"`
	ScrapeConfigs []struct {
		JobName       string                       `yaml:"job_name"`
		StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
	} `yaml:"scrape_configs"`
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(stackDir, path))
	if err != nil {
		t.Fatal(err)
	}
	decode(t, string(text), into)
}

// The files of examples/stack fit each other, as far as can be told without
// running them.
func TestStack(t *testing.T) {
	var c compose
	var sources datasources
	var provided providers
	var scrape scrapeConfig
	readYAML(t, "compose.yaml", &c)
	readYAML(t, "grafana/provisioning/datasources/datasources.yaml", &sources)
	readYAML(t, "grafana/provisioning/dashboards/dashboards.yaml", &provided)
	readYAML(t, "prometheus.yaml", &scrape)

	for _, name := range []string{"nats", "demo", "prometheus", "jaeger", "grafana"} {
		if _, ok := c.Services[name]; !ok {
			t.Errorf("no service %s", name)
		}
	}
	// A tag can be moved, so there is a digest beside it. Dependabot raises both.
	pinned := regexp.MustCompile(`^[a-z/-]+:v?[0-9]+\.[0-9]+\.[0-9]+(-[a-z]+)?@sha256:[0-9a-f]{64}$`)
	// mounts are the sources in the repository by service and path.
	mounts := map[string]map[string]string{}
	listens := map[string]bool{} // "service:port"
	for name, s := range c.Services {
		if !pinned.MatchString(s.Image) {
			t.Errorf("%s: the image %q has no version, or no digest", name, s.Image)
		}
		mounts[name] = map[string]string{}
		for _, v := range s.Volumes {
			parts := strings.Split(v, ":")
			if _, ok := c.Volumes[parts[0]]; ok {
				continue
			}
			if !strings.HasPrefix(parts[0], ".") || len(parts) != 3 || parts[2] != "ro" {
				t.Errorf("%s: the volume %s is neither named nor a read-only path", name, v)
				continue
			}
			if _, err := os.Stat(filepath.Join(stackDir, parts[0])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			mounts[name][parts[1]] = filepath.Join(stackDir, parts[0])
		}
		for _, p := range s.Ports {
			parts := strings.Split(p, ":")
			if len(parts) != 3 || parts[0] != "127.0.0.1" || parts[1] != parts[2] {
				t.Errorf("%s: the port %s is not bound to localhost", name, p)
				continue
			}
			listens[name+":"+parts[2]] = true
		}
		for _, d := range s.DependsOn {
			if _, ok := c.Services[d]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, d)
			}
		}
	}
	reachable := func(what, address string) {
		if u, err := url.Parse(address); err != nil || !listens[u.Host] {
			t.Errorf("%s: nothing listens at %s", what, address)
		}
	}
	for _, variable := range []string{"NATS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		reachable(variable, c.Services["demo"].Environment[variable])
	}

	// Prometheus
	if len(scrape.ScrapeConfigs) != 1 || len(scrape.ScrapeConfigs[0].StaticConfigs) != 1 {
		t.Fatalf("scrape_configs: %+v", scrape.ScrapeConfigs)
	}
	for _, target := range scrape.ScrapeConfigs[0].StaticConfigs[0].Targets {
		reachable("prometheus.yaml", "http://"+target)
		_, port, _ := strings.Cut(target, ":")
		if !slices.Contains(c.Services["demo"].Command, "0.0.0.0:"+port) {
			t.Errorf("the demo does not serve its metrics on port %s", port)
		}
	}
	for _, flag := range []string{"--enable-feature=exemplar-storage", "--config.file=/etc/prometheus/prometheus.yaml"} {
		if !slices.Contains(c.Services["prometheus"].Command, flag) {
			t.Errorf("prometheus lacks %s", flag)
		}
	}
	for _, file := range append(scrape.RuleFiles, "prometheus.yaml") {
		if mounts["prometheus"]["/etc/prometheus/"+file] == "" {
			t.Errorf("/etc/prometheus/%s is not mounted", file)
		}
	}
	if got := filepath.Clean(mounts["prometheus"]["/etc/prometheus/rules.yaml"]); got != "../dashboards/prometheus/rules.yaml" {
		t.Errorf("the rules are %s", got)
	}

	// Grafana
	uids := map[string]string{}
	for _, d := range sources.Datasources {
		reachable(d.Name, d.URL)
		if uids[d.UID] != "" {
			t.Errorf("two data sources %s", d.UID)
		}
		uids[d.UID] = d.Type
	}
	for _, d := range sources.Datasources {
		if d.Type != "prometheus" {
			continue
		}
		if d.JSONData.TimeInterval != scrape.Global.ScrapeInterval {
			t.Errorf("Grafana takes the scrape interval for %s, it is %s", d.JSONData.TimeInterval, scrape.Global.ScrapeInterval)
		}
		if e := d.JSONData.Exemplars; len(e) != 1 || e[0].Name != "trace_id" || uids[e[0].DatasourceUID] != "jaeger" {
			t.Errorf("the dots do not open traces: %+v", e)
		}
	}
	if sources.APIVersion != 1 || provided.APIVersion != 1 || len(provided.Providers) != 1 {
		t.Fatal("the version of the provisioning files, or the number of providers")
	}
	path := provided.Providers[0].Options.Path
	if got := filepath.Clean(mounts["grafana"][path]); got != "../dashboards/grafana" {
		t.Errorf("the dashboards in %s are %s", path, got)
	}
	if got := filepath.Clean(mounts["grafana"]["/etc/grafana/provisioning"]); got != filepath.Join(stackDir, "grafana/provisioning") {
		t.Errorf("the provisioning files are %s", got)
	}
	home := c.Services["grafana"].Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
	if _, err := os.Stat(filepath.Join("grafana", filepath.Base(home))); err != nil || filepath.Dir(home) != path {
		t.Errorf("the home dashboard %s: %v", home, err)
	}

	t.Run("promtool", func(t *testing.T) {
		needPrometheus(t)
		dir := t.TempDir() // as it is mounted
		for target, source := range mounts["prometheus"] {
			text, err := os.ReadFile(source)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, filepath.Base(target)), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		promtool(t, "check", "config", filepath.Join(dir, "prometheus.yaml"))
	})
}
