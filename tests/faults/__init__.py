"""What goes wrong in the world: hostile files, dying processes, full disks."""
