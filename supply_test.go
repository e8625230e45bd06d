package module_test

import (
	"encoding/json"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// Actions are pinned by commit: a tag can be moved. SECURITY.md says that known
// vulnerabilities are looked for, so the workflow does that.
func TestTheWorkflowPinsWhatItRuns(t *testing.T) {
	t.Parallel()
	workflows, err := os.ReadDir(".github/workflows")
	if err != nil {
		t.Fatal(err)
	}
	scans := false
	for _, w := range workflows {
		text := read(t, path.Join(".github/workflows", w.Name()))
		for _, m := range regexp.MustCompile(`uses: *(\S+)`).FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`@[0-9a-f]{40}$`).MatchString(m[1]) {
				t.Errorf("%s uses %s, which is not pinned by commit", w.Name(), m[1])
			}
		}
		for _, m := range regexp.MustCompile(`go (?:run|install) (\S+\.\S+/\S+)`).FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`@v\d+\.\d+\.\d+$`).MatchString(m[1]) {
				t.Errorf("%s runs %s, which has no version", w.Name(), m[1])
			}
		}
		scans = scans || regexp.MustCompile(`govulncheck@\S+ \./\.\.\.`).MatchString(text)
	}
	if says := strings.Contains(read(t, "SECURITY.md"), "govulncheck ./..."); !scans || !says {
		t.Errorf("the workflow looks for vulnerabilities: %v, and SECURITY.md says so: %v", scans, says)
	}
}

// Whatever has dependencies is looked after by dependabot.
func TestEveryManifestIsLookedAfter(t *testing.T) {
	t.Parallel()
	text := read(t, ".github/dependabot.yml")
	for ecosystem, manifests := range map[string][]string{
		"gomod": {"go.mod", "examples/compare/go.mod"}, "npm": {"dashboards/picture/package.json"},
		"docker-compose": {"examples/stack/compose.yaml"},
	} {
		for _, manifest := range manifests {
			read(t, manifest)
			entry := regexp.MustCompile(`package-ecosystem: ` + ecosystem + `\n +directory: /` + strings.TrimPrefix(path.Dir(manifest), ".") + `\n`)
			if !entry.MatchString(text) {
				t.Errorf("dependabot.yml has no %s for %s", ecosystem, manifest)
			}
		}
	}
	if !strings.Contains(text, "package-ecosystem: github-actions") {
		t.Error("dependabot.yml has no github-actions")
	}
}

// npm installs what the lock file says, with the sums that it has, and whoever follows the
// README runs no scripts of packages.
func TestTheNpmPackagesAreLocked(t *testing.T) {
	t.Parallel()
	var lock struct {
		Packages map[string]struct {
			Resolved, Integrity string
			Dependencies        map[string]string
			Link                bool
		}
	}
	var manifest struct {
		Dependencies map[string]string
		Scripts      map[string]string
	}
	for name, into := range map[string]any{"package-lock.json": &lock, "package.json": &manifest} {
		if err := json.Unmarshal([]byte(read(t, "dashboards/picture/"+name)), into); err != nil {
			t.Fatal(err)
		}
	}
	for name, version := range manifest.Dependencies {
		if lock.Packages[""].Dependencies[name] != version || !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(version) {
			t.Errorf("%s is %s, and locked as %q", name, version, lock.Packages[""].Dependencies[name])
		}
	}
	for name, p := range lock.Packages {
		if name != "" && !p.Link && (p.Integrity == "" || p.Resolved != "" && !strings.HasPrefix(p.Resolved, "https://")) {
			t.Errorf("%s comes from %q with the sum %q", name, p.Resolved, p.Integrity)
		}
	}
	if len(manifest.Scripts) > 0 {
		t.Errorf("package.json has scripts %v", manifest.Scripts)
	}
	if page := read(t, "dashboards/picture/README.md"); !strings.Contains(page, "npm ci --ignore-scripts") {
		t.Error("the README does not install with npm ci --ignore-scripts")
	}
}
