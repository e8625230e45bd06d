// There is no Go here. This file keeps node_modules, which has some, out of the
// module above.
module go-micro-jetstream/dashboards/picture

go 1.26
