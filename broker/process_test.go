package broker_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// process is another process of this test binary: TestMain makes of it what the
// environment says.
type process struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	lines chan string // of its output; closed at its end
}

func startProcess(t testing.TB, environment ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), lines: make(chan string, 1000)}
	p.cmd.Env = append(os.Environ(), environment...)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(output); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	return p
}

// await returns the next line that begins so.
func (p *process) await(t testing.TB, begins string) string {
	t.Helper()
	for {
		switch line := receive(t, p.lines); {
		case line == "":
			t.Fatalf("the process has ended, or says nothing, before %q", begins)
		case strings.HasPrefix(line, begins):
			return line
		}
	}
}

// kill is kill -9, and does nothing to a process that has ended.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}
