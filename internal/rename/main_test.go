package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const fork = "github.com/you/go-micro-jetstream"

// copyModule copies the module without what git does not keep.
func copyModule(t *testing.T) string {
	t.Helper()
	root, dir := filepath.Join("..", ".."), t.TempDir()
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		switch {
		case d.Name() == ".git" || d.Name() == "node_modules":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dir, rel), 0o755)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), text, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A copy of the module under another path builds, passes go vet, and works.
func TestAForkBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles the module a second time, under another path")
	}
	dir := copyModule(t)
	if _, err := rename(dir, fork); err != nil {
		t.Fatal(err)
	}
	// vet compiles everything but links nothing, which would take minutes.
	for _, command := range [][]string{
		{"go", "vet", "./..."},
		{"go", "test", "./broker/internal/wire", "./dashboards/internal/..."},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
		}
	}
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = filepath.Join(dir, "examples", "compare")
	if out, err := cmd.Output(); err != nil || !bytes.Contains(out, []byte(`"`+fork+`"`)) {
		t.Errorf("examples/compare: %v\n%s", err, out)
	}
}

func TestReplacer(t *testing.T) {
	replace := replacer("old", "host.example/new")
	for was, want := range map[string]string{
		`import "old/broker"`:                     `import "host.example/new/broker"`,
		"module old\n":                            "module host.example/new\n",
		"module old":                              "module host.example/new",
		"\told v0.0.0\n":                          "\thost.example/new v0.0.0\n",
		"replace old => ../..":                    "replace host.example/new => ../..",
		"-require=old@v0.0.0 -replace=old=../old": "-require=host.example/new@v0.0.0 -replace=host.example/new=../old",
		"go list old/...":                         "go list host.example/new/...",
		`const OwnerKey = "old"`:                  `const OwnerKey = "old"`,
		`"old-asked"`:                             `"old-asked"`,
		"github.com/you/old/broker":               "github.com/you/old/broker",
		"../old/broker":                           "../old/broker",
		"the old one, a threshold/limit, and old.broker": "the old one, a threshold/limit, and old.broker",
	} {
		if is := string(replace([]byte(was))); is != want {
			t.Errorf("%q becomes %q, want %q", was, is, want)
		}
	}
}

func TestAPathNeedsAHost(t *testing.T) {
	for _, to := range []string{"", "jetstream", "you/jetstream", "https://github.com/you/jetstream", "github.com", "github.com/you/jet stream"} {
		if n, err := rename(t.TempDir(), to); err == nil || n > 0 || !strings.Contains(err.Error(), "host") {
			t.Errorf("%q: %d files, %v", to, n, err)
		}
	}
}
