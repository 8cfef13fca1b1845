"""The networks' inputs: reads label maps, face parts, edges and poses from files as planes."""
