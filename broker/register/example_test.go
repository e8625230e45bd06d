package register_test

import (
	"fmt"

	"go-micro.dev/v5/cmd"

	_ "go-micro-jetstream/broker/register"
)

// The import alone makes MICRO_BROKER=jetstream and --broker=jetstream work.
func Example() {
	b := cmd.DefaultBrokers["jetstream"]()
	fmt.Println(b.String())
	// Output: jetstream
}
