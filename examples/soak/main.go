// Command soak publishes and consumes for a while, injects faults meanwhile, and
// counts every message:
//
//	go run ./examples/soak -d 10m
//
// It starts a cluster of three servers, or a single server with -servers 1. It
// restarts the servers one at a time, deletes consumers and replaces replicas. At the
// end it prints a table, which also has the goroutines and the memory before and
// after. It fails if a message that a stream acknowledged was neither handled nor
// dead-lettered, or if the client dropped a message.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "go-micro-jetstream/examples/microtls"
)

func main() {
	d := flag.Duration("d", 10*time.Minute, "how long to publish")
	servers := flag.Int("servers", 3, "how many `servers`: 1 or 3")
	rate := flag.Int("rate", 200, "`messages` per second and publisher")
	every := flag.Duration("chaos", 5*time.Second, "pause between two faults; 0: no faults")
	verbose := flag.Bool("v", false, "show the broker's log and the faults on stderr")
	flag.Parse()
	if *d <= 0 || *rate < 1 || (*servers != 1 && *servers != 3) || *every < 0 || flag.NArg() > 0 {
		fmt.Fprintln(flag.CommandLine.Output(), "soak: want a positive duration and rate, and 1 or 3 servers")
		flag.Usage()
		os.Exit(2)
	}
	s := &soak{servers: *servers, rate: *rate, every: *every, verbose: *verbose, ledger: newLedger()}
	if err := run(s, *d); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(s *soak, d time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return s.run(ctx, d)
}
