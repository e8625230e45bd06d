// Package examples_test checks that users can copy the examples. Its folders test
// what each example does.
package examples_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go-micro-jetstream/internal/examples/proc"
)

// user is a module of a user's that has a copy of an example.
type user struct {
	dir string
}

// newUser copies an example into a module of its own. That one needs what this
// module needs, so that nothing is downloaded.
func newUser(t *testing.T, root, example string) user {
	t.Helper()
	u := user{t.TempDir()}
	if err := os.CopyFS(filepath.Join(u.dir, example), os.DirFS(filepath.Join(root, "examples", example))); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(u.dir, example, "go.mod")
	if _, err := os.Stat(own); err == nil { // the example is a module already
		u.dir = filepath.Dir(own)
	} else {
		for _, name := range []string{"go.mod", "go.sum"} {
			text, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(u.dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	u.command(t, "mod", "edit", "-module=example.com/shop", "-require=go-micro-jetstream@v0.0.0", "-replace=go-micro-jetstream="+root)
	return u
}

// command runs the go command in the user's module.
func (u user) command(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = u.dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// hasGo reports whether a folder has Go files.
func hasGo(t *testing.T, dir string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files) > 0
}

// Whoever copies an example into a module of their own can build it as it is.
func TestEveryExampleCanBeCopied(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, "examples"))
	if err != nil {
		t.Fatal(err)
	}
	copied := 0
	for _, e := range entries {
		dir := filepath.Join(root, "examples", e.Name())
		if !e.IsDir() || !hasGo(t, dir) {
			continue
		}
		copied++
		t.Run(e.Name(), func(t *testing.T) { // one by one: each fills all processors
			noInternal(t, dir)
			if testing.Short() && e.Name() != "service" {
				t.Skip("compiling every example takes too long for -short")
			}
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				return // it may need modules that are not there; the line above is what can be said
			}
			u := newUser(t, root, e.Name())
			u.command(t, "vet", "./...") // compiles all, and links nothing
			if e.Name() == "fanout" || e.Name() == "deadletter" {
				program := filepath.Join(u.dir, "program")
				u.command(t, "build", "-o", program, "./"+e.Name())
				if code, out, stderr := proc.Start(t, program, nil).Wait(); code != 0 {
					t.Errorf("exit %d\n%s%s", code, out, stderr)
				}
			}
		})
	}
	if copied < 10 {
		t.Errorf("only %d examples", copied)
	}
}

// noInternal demands that no file of an example imports an internal package.
func noInternal(t *testing.T, dir string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		if err == nil && bytes.Contains(text, []byte("go-micro-jetstream/internal/")) {
			err = errors.New(path + " imports an internal package")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
