package broker_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go-micro.dev/v5"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/registry"
	microserver "go-micro.dev/v5/server"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/wrapper"
	"go-micro-jetstream/internal/natstest"
)

const serviceVariable = "BROKER_TEST_SERVICE"

// runAsService turns this process into a go-micro service, as docs/operations.md has it,
// if a test has started it as one. Its handler says when it begins, and ends with
// the next line of the input.
func runAsService() bool {
	url := os.Getenv(serviceVariable)
	if url == "" {
		return false
	}
	b := jsbroker.NewBroker(broker.Addrs(url), jsbroker.WithBatchSize(5))
	service := micro.NewService(
		micro.Name("workers"),
		micro.Address("127.0.0.1:0"),
		micro.Registry(registry.NewMemoryRegistry()),
		micro.Broker(b),
		micro.WrapSubscriber(wrapper.Subscriber(b)),
		micro.AfterStop(b.Disconnect),
	)
	input := bufio.NewReader(os.Stdin)
	err := micro.RegisterSubscriber("orders", service.Server(), func(ctx context.Context, o *Order) error {
		n := jsbroker.NumDelivered(wrapper.Event(ctx))
		fmt.Println("began", o.ID, n)
		if _, err := input.ReadString('\n'); err != nil {
			return err
		}
		fmt.Println("handled", o.ID, n)
		return nil
	}, microserver.SubscriberQueue("workers"))
	if err == nil {
		err = service.Run()
	}
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	return true
}

// serviceProcess is such a process.
type serviceProcess struct {
	*process
	t *testing.T
}

func startServiceProcess(t *testing.T, url string) *serviceProcess {
	t.Helper()
	return &serviceProcess{process: startProcess(t, serviceVariable+"="+url), t: t}
}

// next returns the order and the delivery that the next line tells of.
func (p *serviceProcess) next(what string) (order string, delivery int) {
	p.t.Helper()
	line := receive(p.t, p.lines)
	words := strings.Fields(line)
	if len(words) != 3 || words[0] != what {
		p.t.Fatalf("the service says %q, want %q", line, what)
	}
	delivery, err := strconv.Atoi(words[2])
	noErr(p.t, err)
	return words[1], delivery
}

// goOn lets the handler that runs return.
func (p *serviceProcess) goOn() {
	p.t.Helper()
	_, err := fmt.Fprintln(p.input)
	noErr(p.t, err)
}

// end waits for the end of the process, which must have no more to say.
func (p *serviceProcess) end() {
	p.t.Helper()
	if line := receive(p.t, p.lines); line != "" {
		p.t.Fatalf("the service says %q, want its end", line)
	}
	noErr(p.t, p.cmd.Wait())
}

// What Kubernetes does to a replica: SIGTERM, while its handler runs and more has
// been fetched.
func TestSIGTERMLosesNothingAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	const n, fetched = 30, 5
	orders := micro.NewEvent("orders", newService(t, "shop", newBroker(t, s)).Client())
	for i := range n {
		noErr(t, orders.Publish(context.Background(), &Order{ID: strconv.Itoa(i)}))
	}

	first := startServiceProcess(t, s.ClientURL())
	running, _ := first.next("began")
	eventually(t, "more has been fetched than runs", func() bool { return natstest.ConsumerInfo(t, js, "ORDERS", "workers").NumAckPending == fetched })
	noErr(t, first.cmd.Process.Signal(syscall.SIGTERM))

	// The next replica gets what the first has given back while that still works.
	second := startServiceProcess(t, s.ClientURL())
	again := 0
	handled := map[string]int{}
	for range n - 1 {
		order, delivery := second.next("began")
		second.goOn()
		second.next("handled")
		handled[order]++
		again += delivery - 1
	}
	first.goOn()
	if order, _ := first.next("handled"); order != running {
		t.Errorf("the first handled %s, want %s", order, running)
	}
	handled[running]++
	first.end()
	eventually(t, "all is acked", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 0 })
	noErr(t, second.cmd.Process.Signal(syscall.SIGTERM))
	second.end()
	if len(handled) != n {
		t.Errorf("%d handled, want %d", len(handled), n)
	}
	for order, times := range handled {
		if times != 1 {
			t.Errorf("order %s was handled %d times", order, times)
		}
	}
	if again != fetched-1 {
		t.Errorf("%d deliveries too many, want the %d that were given back", again, fetched-1)
	}
}
